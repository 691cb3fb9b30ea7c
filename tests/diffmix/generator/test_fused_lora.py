"""LoRA in a UNet's weights, against peft's own fusing."""

import pytest
import torch

from diffmix.generator.base_model import load_base, move
from diffmix.generator.fused_lora import fuse

RANK = 3


def unet_of(model):
    return load_base(model, "cpu", torch.float32).unet


def lora_of(unet, convolutions: bool = False) -> dict[str, torch.Tensor]:
    """Random LoRA of the attention projections, and with `convolutions` of a 3 x 3 one."""
    torch.manual_seed(1)
    found = {}
    for name, layer in unet.named_modules():
        if name.endswith(("to_q", "to_out.0")):
            out, width = layer.weight.shape
            found[f"unet.{name}.lora.down.weight"] = torch.randn(RANK, width)
            found[f"unet.{name}.lora.up.weight"] = torch.randn(out, RANK)
        if convolutions and name == "conv_in":
            found[f"unet.{name}.lora.down.weight"] = torch.randn(RANK, 4, 3, 3)
            found[f"unet.{name}.lora.up.weight"] = torch.randn(layer.weight.shape[0], RANK, 1, 1)
    return found


def fused_by_peft(unet, weights):
    unet.load_lora_adapter(weights, prefix="unet")
    unet.fuse_lora()
    unet.unload_lora()
    return unet


@pytest.mark.parametrize("convolutions", [False, True])
def test_it_is_to_the_bit_what_peft_makes(tiny_model, convolutions):
    ours, plain, theirs = (unet_of(tiny_model) for _ in range(3))
    weights = lora_of(ours, convolutions)
    fuse(weights, ours)
    expected = fused_by_peft(theirs, weights).state_dict()
    assert ours.state_dict().keys() == expected.keys()
    changed = 0
    for name, value in ours.state_dict().items():
        assert torch.equal(value, expected[name]), name
        changed += not torch.equal(value, plain.state_dict()[name])
    assert changed == len(weights) / 2


def test_it_is_added_up_before_it_is_rounded(tiny_model):
    """As when all was fused in fp32 and cast after."""
    pipes = [load_base(tiny_model, "cpu", torch.float32) for _ in range(2)]
    weights = {key: value / 300 for key, value in lora_of(pipes[0].unet).items()}
    fuse(weights, pipes[0].unet, "cpu", torch.bfloat16)
    fused_by_peft(pipes[1].unet, weights)
    for pipe in pipes:
        move(pipe, "cpu", torch.bfloat16)
    one, other = (pipe.unet.state_dict() for pipe in pipes)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_each_layer_goes_to_the_device_by_itself(tiny_model):
    """The device is torch's meta device, which has no memory."""
    unet = unet_of(tiny_model)
    fuse(lora_of(unet), unet, "meta", torch.float16)
    places = {name: value.device.type for name, value in unet.named_parameters()}
    for name, place in places.items():
        fused = name.endswith(("to_q.weight", "to_out.0.weight"))
        assert place == ("meta" if fused else "cpu"), name
    assert unet.get_parameter("mid_block.attentions.0.proj_in.weight").dtype == torch.float32


def test_another_bases_lora_is_refused(tiny_model):
    unet = unet_of(tiny_model)
    weights = {key: value[:, :-1] for key, value in lora_of(unet).items() if "down" in key}
    with pytest.raises(ValueError, match="values in the base"):
        fuse(weights, unet)
