"""diffusers' DiTTransformer2DModel behind our calling convention. diffusers is optional."""

from diffusers import DiTTransformer2DModel
from torch import Tensor, nn

from scripts.twins.shape import Shape


class DiffusersDiT(nn.Module):
    """net(x (B, C, 1, H, W), t (B, 1) in [0, 1], cond["label"] (B,)) -> (B, out_channels, 1, H, W)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.net = DiTTransformer2DModel(
            num_attention_heads=shape.heads,
            attention_head_dim=shape.width // shape.heads,
            in_channels=shape.in_channels,
            out_channels=shape.out_channels,
            num_layers=shape.depth,
            sample_size=shape.size,
            patch_size=shape.patch,
            num_embeds_ada_norm=shape.num_classes,
        )

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor]) -> Tensor:
        out = self.net(x[:, :, 0], timestep=(999 * t[:, 0]).long(), class_labels=cond["label"])
        return out.sample.unsqueeze(2)
