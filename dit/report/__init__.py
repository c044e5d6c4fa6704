"""Runs side by side: what differs among them, curves with intervals over seeds, measures, videos; a page and figures.

It reads what runs leave behind, and changes none of it.
"""
