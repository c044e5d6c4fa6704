"""Turns weights of one layout into another: diffusers' folders, runs and checkpoints of ours, folders of ours.

    python scripts/convert_weights.py Wan2.1-T2V-1.3B-Diffusers/transformer wan      # diffusers -> a folder of ours
    python scripts/convert_weights.py runs/mine out                                  # ours -> diffusers
    python scripts/convert_weights.py runs/mine out --weights raw                    # as they are, not their average
    python scripts/convert_weights.py DiT-XL-2-256x256.safetensors dit               # a checkpoint of DiT's own code
    python scripts/convert_weights.py SiT-XL-2-256x256.safetensors sit --preset sit_s_2      # or of SiT's -> ours
    python scripts/convert_weights.py runs/my_lora out --to lora                     # its adapters alone, for diffusers
    python scripts/convert_weights.py runs/mine out --to run --dtype float16         # to pass on: sample.py ckpt=out
    python scripts/convert_weights.py runs/tuned out --to pipeline                   # in the pipeline that it is from
    python scripts/convert_weights.py runs/high out --to pipeline --low-noise runs/low       # both networks of Wan 2.2

SOURCE is a folder with config.json and safetensors (whole or in shards) that diffusers saved, a run directory, a
checkpoint, a folder that this script made, or a safetensors file of the original repositories of DiT and SiT (sizes are
read off it; --preset says which of the two). OUT is a new folder: for diffusers, `<class>.from_pretrained(OUT)` loads
it, or `pipe.load_lora_weights(OUT)` if it holds adapters; one of ours holds net.yaml and net.safetensors. `train.py
init_from=` takes either. Of a run the averaged weights are written (EMA, of the profile that its previews show), with
`--weights raw` those of its last step. The adapters of a LoRA run are merged into its weights unless `--to lora` is
said. With `--to run` OUT holds all that was trained in one safetensors file with its config, and a card; commands take
it in the place of a run. Else only the network is written, not the text encoder or the codec; with `--to pipeline` the
other parts are copied from the folder that the run was begun from (`experiment=finetune`), or from --pipeline. Nothing
is overwritten, and no file can run code.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from dit import adapters, runfiles
from dit.checkpoint.exported import is_exported
from dit.checkpoint.opened import in_run
from dit.entry import one_line_errors
from dit.folders import PIPELINE
from dit.interop import diffusers, files, lora, native, original, run_folder
from dit.interop.published import write_pipeline
from dit.net.backbone import Backbone
from dit.sampling.checkpoint import Checkpoint


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of diffusers or ours, run directory, or checkpoint")
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument(
        "--to", choices=("diffusers", "ours", "lora", "pipeline", "run"), help="default: what the source is not"
    )
    parser.add_argument("--weights", help="of a run: ema, raw, or the name of an EMA profile (ema)")
    parser.add_argument(
        "--trusted", nargs="+", default=[], help="packages of yours whose classes a checkpoint may build"
    )
    parser.add_argument("--preset", help="of an original checkpoint: dit_s_2 or sit_s_2 (dit_s_2)")
    parser.add_argument("--class-name", help="of diffusers, where several compute the same")
    parser.add_argument("--pipeline", type=Path, help="folder that the run was begun from, where it lies elsewhere now")
    parser.add_argument("--low-noise", type=Path, help="run of the second network of a pipeline with two")
    parser.add_argument("--dtype", choices=tuple(run_folder.DTYPES), help="of the weights, with --to run (float32)")
    asked = parser.parse_args()
    files.check_free(asked.out)
    # A run of ours may hold an export of itself.
    own = native.is_folder(asked.source) or in_run(asked.source) is not None
    foreign = not own and diffusers.is_folder(asked.source)
    published = asked.source.suffix in (".safetensors", *original.FOREIGN) and not is_exported(asked.source)
    to = asked.to or ("ours" if foreign or published else "diffusers")
    if to in ("pipeline", "run") and (foreign or published or native.is_folder(asked.source)):
        wanted = "one that was begun from a whole pipeline" if to == "pipeline" else "one, or its checkpoint"
        raise ValueError(f"{asked.source} is no run; --to {to} wants {wanted}")
    check_used(asked, run=not foreign and not published, published=published, to=to)
    if to == "run":
        print(wrote(asked.out, *write_run(asked)))
        return
    if published:
        preset = asked.preset or original.DIT
        net = original.from_original(asked.source, preset)
        config, about = original.original_config(asked.source, preset), str(asked.source)
    elif foreign:
        if to == "lora":
            raise ValueError(f"{asked.source} is a whole network; --to lora wants a LoRA run of ours")
        net = diffusers.from_diffusers(asked.source)
        config, about = diffusers.open_folder(asked.source).config, str(asked.source)
    else:
        checkpoint = opened(asked.source)
        net, label = network(checkpoint, asked.weights or "ema", asked.trusted)
        config, about = checkpoint.value("net"), f"{checkpoint.file} ({label})"
    if to == "lora":
        print(wrote(asked.out, f"{len(lora.save_lora(net, asked.out))} adapters", about, adapter_size(net)))
        return
    if adapters.has_adapters(net):
        adapters.merge(net)
    if to == "pipeline":
        nets = {expert_of(checkpoint): net}
        if asked.low_noise is not None:
            other, said = low_noise(asked, checkpoint)
            nets, about = {**nets, "low": other}, f"{about} and {said}"
        name = write_pipeline(nets, source_of(checkpoint, asked.pipeline), asked.out, asked.class_name)
        print(wrote(asked.out, name, about, sum(map(size_of, nets.values()))))
    elif to == "ours":
        native.write(asked.out, config, net.state_dict())
        print(wrote(asked.out, "a network of ours", about, size_of(net)))
    else:
        diffusers.to_diffusers(net, asked.out, class_name=asked.class_name)
        print(wrote(asked.out, diffusers.recognise(net).class_name, about, size_of(net)))


def check_used(asked: argparse.Namespace, run: bool, published: bool, to: str) -> None:
    """Raises ValueError for an option that would do nothing."""
    if asked.weights is not None and not run:
        raise ValueError(f"--weights {asked.weights} is of runs and checkpoints of ours; {asked.source} is none")
    if asked.preset is not None and not published:
        raise ValueError(f"--preset {asked.preset} is of a safetensors file of DiT or SiT; {asked.source} is none")
    if asked.class_name is not None and to not in ("diffusers", "pipeline"):
        raise ValueError(f"--class-name {asked.class_name} is of diffusers, and {asked.out} would be written --to {to}")
    if asked.dtype is not None and to != "run":
        raise ValueError(f"--dtype {asked.dtype} is for --to run, and {asked.out} would be written --to {to}")
    for option, value in (("--pipeline", asked.pipeline), ("--low-noise", asked.low_noise)):
        if value is not None and to != "pipeline":
            raise ValueError(f"{option} {value} is for --to pipeline, and {asked.out} would be written --to {to}")


def opened(source: Path) -> Checkpoint:
    """A run, a checkpoint, or a folder of ours, which is read as a checkpoint that holds a network alone."""
    if not native.is_folder(source):
        return Checkpoint.load(source)
    folder = native.open_folder(source)
    return Checkpoint(
        source, {f"net.{key}": tensor for key, tensor in folder.weights.items()}, {}, {"net": folder.config}
    )


def network(checkpoint: Checkpoint, weights: str, trusted: list[str]) -> tuple[Backbone, str]:
    """The network of a checkpoint, with its adapters if it has any, and which weights it holds."""
    label, averaged = chosen(checkpoint, weights)
    net = checkpoint.network(trusted)
    checkpoint.fill({"net": net}, averaged)
    return net, label


def chosen(checkpoint: Checkpoint, weights: str) -> tuple[str, dict[str, Tensor]]:
    """Which weights, and the averaged ones among them; of a run without averages those of its last step."""
    averages = checkpoint.ema or checkpoint.only
    return checkpoint.choose(weights if averages or weights != "ema" else checkpoint.only or "raw")


def write_run(asked: argparse.Namespace) -> tuple[str, str, int]:
    """Writes a run as a folder to pass on; says what it is, of what, and how large."""
    checkpoint = Checkpoint.load(asked.source)
    label, averaged = chosen(checkpoint, asked.weights or "ema")
    weights = {**checkpoint.weights, **averaged}
    lies_in = [checkpoint.file.parent, checkpoint.file.parent.parent]
    run_folder.write(
        asked.out,
        weights,
        checkpoint.config,
        label,
        next((folder for folder in lies_in if (folder / runfiles.CONFIG).is_file()), None),
        step=checkpoint.step,
        classes=list(checkpoint.classes) or None,
        data_cards=list(checkpoint.data_cards),
        dtype=asked.dtype or "float32",
    )
    return "a run to pass on", f"{checkpoint.file} ({label})", sum(value.numel() for value in weights.values())


def expert_of(checkpoint: Checkpoint) -> str:
    """For which noise levels of its pipeline the network of a run is: `high`, which may be all, or `low`."""
    return "low" if checkpoint.config.get("init_expert") == "low" else "high"


def low_noise(asked: argparse.Namespace, high: Checkpoint) -> tuple[Backbone, str]:
    """The network of --low-noise, adapters merged, and what it is in words."""
    checkpoint = Checkpoint.load(asked.low_noise)
    if (expert_of(high), expert_of(checkpoint)) != ("high", "low"):
        raise ValueError(
            f"--low-noise {asked.low_noise}: SOURCE is to be a run of the first network, and this one of the second"
            f" (init_expert=low); they are of {expert_of(high)} and of {expert_of(checkpoint)}"
        )
    for part in ("text", "codec"):
        ours, theirs = (marked(each, part) for each in (high, checkpoint))
        if ours != theirs:
            raise ValueError(f"{high.file} and {checkpoint.file} were begun from two pipelines: their {part} differs")
    net, label = network(checkpoint, asked.weights or "ema", asked.trusted)
    if adapters.has_adapters(net):
        adapters.merge(net)
    return net, f"{checkpoint.file} ({label})"


def marked(checkpoint: Checkpoint, part: str) -> object:
    """The fingerprint of a published part of a run; None where it has no such part."""
    node = checkpoint.config.get(part)
    return node.get("fingerprint") if isinstance(node, dict) else None


def source_of(checkpoint: Checkpoint, given: Path | None) -> Path:
    """The folder of the pipeline that a run was begun from."""
    if given is not None:
        return given
    begun = checkpoint.value("init_from")
    if not isinstance(begun, str) or not (Path(begun) / PIPELINE).is_file():
        raise ValueError(
            f"{checkpoint.file} was begun from init_from={begun}, which is no folder of a whole pipeline here:"
            " --pipeline DIR says where it lies"
        )
    return Path(begun)


def size_of(net: Backbone) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


def adapter_size(net: Backbone) -> int:
    return sum(each.a.numel() + each.b.numel() for each in adapters.adapters(net).values())


def wrote(out: Path, what: str, about: str, size: int) -> str:
    return f"wrote {out}: {what} from {about}, {size:,} parameters"


if __name__ == "__main__":
    with one_line_errors():
        main()
