"""Train a video diffusion transformer: `python train.py experiment=demo name=mine`; every key: `train.py --cfg job`."""

from omegaconf import DictConfig, OmegaConf

from dit import entry
from dit.engine import run


@entry.main("train")
def main(config: DictConfig) -> None:
    run.train(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))


if __name__ == "__main__":
    main()
