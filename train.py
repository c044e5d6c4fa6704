"""Train a video diffusion transformer: `python train.py experiment=demo name=mine`; every key: `train.py --cfg job`."""

from dit import entry
from dit.engine import run
from dit.engine.config import Config


@entry.main("train")
def main(config: Config) -> None:
    run.train(dict(config))


if __name__ == "__main__":
    main()
