"""What scripts/ablate.py is made of: which variants, at what budget, run where, and what they came to."""
