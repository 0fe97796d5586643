"""Networks for pictures and films: torchvision's and timm's, small."""

from collections.abc import Callable
from typing import Any

from breadth.family import Family, Network, images


def _of_torchvision(name: str, size: int = 64, **settings: Any) -> Callable[[], Network]:
    def make() -> Network:
        models = torchvision_models()
        return Network(getattr(models, name)(weights=None, **settings), images(size))

    return make


def _of_timm(name: str, size: int = 64, kept: str = "", **settings: Any) -> Callable[[], Network]:
    def make() -> Network:
        torchvision_models()
        import timm

        net = timm.create_model(name, pretrained=False, num_classes=10, **settings)
        return Network(net, images(size), kept=kept)

    return make


def torchvision_models() -> Any:
    """``torchvision.models``, also where its compiled operators do not fit the installed torch.

    None of the networks here needs them, but the package asks for these two when it is imported.
    """
    import torch

    try:
        import torchvision
    except RuntimeError:
        stand_in = torch.library.Library("torchvision", "DEF")
        stand_in.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        stand_in.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision.models


def _alexnet() -> Network:
    from torch import nn

    net = torchvision_models().alexnet(weights=None)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10))
    return Network(net, images(64))


def _vgg() -> Network:
    from torch import nn

    vgg = torchvision_models().vgg
    plan = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M"]
    net = vgg.VGG(vgg.make_layers(plan, batch_norm=False), num_classes=10)
    net.avgpool = nn.AdaptiveAvgPool2d(1)
    net.classifier = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
    return Network(net, images(32))


def _resnet() -> Network:
    torchvision_models()
    from timm.models.resnet import BasicBlock, ResNet

    return Network(ResNet(BasicBlock, [2, 2, 2, 2], 10, channels=(16, 32, 64, 128)), images(64))


def _inception() -> Network:
    from torch import nn

    net = torchvision_models().inception_v3(weights=None, aux_logits=False, init_weights=False)
    net.Mixed_7b, net.Mixed_7c, net.fc = nn.Identity(), nn.Identity(), nn.Linear(1280, 10)
    return Network(net, images(96))


def _densenet() -> Network:
    models = torchvision_models()
    net = models.DenseNet(growth_rate=12, block_config=(3, 3, 3), num_init_features=24, num_classes=10)
    return Network(net, images(64))


def _vit() -> Network:
    models = torchvision_models()
    net = models.VisionTransformer(64, 16, 3, 4, 96, 192, num_classes=10)
    return Network(net, images(64))


def _swin(version: int) -> Callable[[], Network]:
    def make() -> Network:
        from torch import nn

        swin = torchvision_models().swin_transformer
        settings: dict[str, Any] = {"num_classes": 10, "norm_layer": nn.LayerNorm}
        if version == 2:
            settings |= {"block": swin.SwinTransformerBlockV2, "downsample_layer": swin.PatchMergingV2}
        net = swin.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], **settings)
        return Network(net, images(64))

    return make


def _convnext() -> Network:
    convnext = torchvision_models().convnext
    blocks = [(32, 64, 2), (64, 128, 2), (128, None, 2)]
    net = convnext.ConvNeXt([convnext.CNBlockConfig(*block) for block in blocks], num_classes=10)
    return Network(net, images(64))


def _maxvit() -> Network:
    net = torchvision_models().MaxVit(
        input_size=(64, 64),
        stem_channels=16,
        partition_size=4,
        block_channels=[16, 32],
        block_layers=[1, 1],
        head_dim=8,
        stochastic_depth_prob=0.0,
        num_classes=10,
    )
    return Network(net, images(64))


class _Segmentation:
    """Makes networks of which the first answer is taken."""

    def __init__(self, name: str, **settings: Any) -> None:
        self._name, self._settings = name, settings

    def __call__(self) -> Network:
        from torch import nn

        models = torchvision_models()
        inner = getattr(models.segmentation, self._name)(
            weights=None, weights_backbone=None, num_classes=5, **self._settings
        )

        class Out(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = inner

            def forward(self, image):
                return self.inner(image)["out"]

        return Network(Out(), images(64))


def _resnext() -> Network:
    resnet = torchvision_models().resnet
    net = resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=10, groups=8, width_per_group=8)
    return Network(net, images(64))


def _mixer(kind: str) -> Callable[[], Network]:
    def make() -> Network:
        from timm.layers import GatedMlp
        from timm.models import mlp_mixer

        own: dict[str, dict[str, Any]] = {
            "MLP-Mixer": {"block_layer": mlp_mixer.MixerBlock},
            "ResMLP": {"block_layer": mlp_mixer.ResBlock, "mlp_ratio": 4, "norm_layer": mlp_mixer.Affine},
            "gMLP": {"block_layer": mlp_mixer.SpatialGatingBlock, "mlp_ratio": 4, "mlp_layer": GatedMlp},
        }
        sizes = {"num_classes": 10, "img_size": 64, "patch_size": 16, "num_blocks": 3, "embed_dim": 96}
        return Network(mlp_mixer.MlpMixer(**sizes, **own[kind]), images(64))

    return make


def _convmixer() -> Network:
    from timm.models.convmixer import ConvMixer

    return Network(ConvMixer(dim=96, depth=4, kernel_size=7, patch_size=8, num_classes=10), images(64))


def _res2net() -> Network:
    from timm.models.res2net import Bottle2neck
    from timm.models.resnet import ResNet

    net = ResNet(Bottle2neck, [1, 1, 1, 1], num_classes=10, base_width=8, block_args={"scale": 4})
    return Network(net, images(64))


def _video() -> Network:
    from torch import nn

    video = torchvision_models().video.resnet
    parts = (video.BasicBlock, [video.Conv2Plus1D] * 4, [1, 1, 1, 1], video.R2Plus1dStem)
    net = video.VideoResNet(*parts, num_classes=10)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(128, 10)
    return Network(net, images(32, frames=4))


SMALL = {"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 3}
FAMILIES = (
    Family("AlexNet", "torchvision", _alexnet),
    Family("VGG", "torchvision", _vgg),
    Family("ResNet", "timm", _resnet),
    Family("ResNeXt", "torchvision", _resnext),
    Family("DenseNet", "torchvision", _densenet),
    Family("SqueezeNet", "torchvision", _of_torchvision("squeezenet1_1")),
    Family("GoogLeNet", "torchvision", _of_torchvision("googlenet", aux_logits=False, init_weights=False)),
    Family("Inception v3", "torchvision", _inception),
    Family("MobileNet v2", "torchvision", _of_torchvision("mobilenet_v2")),
    Family("MobileNet v3", "torchvision", _of_torchvision("mobilenet_v3_small")),
    Family("EfficientNet", "torchvision", _of_torchvision("efficientnet_b0")),
    Family("ShuffleNet v2", "torchvision", _of_torchvision("shufflenet_v2_x0_5")),
    Family("MNASNet", "torchvision", _of_torchvision("mnasnet0_5")),
    Family("RegNet", "torchvision", _of_torchvision("regnet_y_400mf")),
    Family("ConvNeXt", "torchvision", _convnext),
    Family("ViT", "torchvision", _vit),
    Family("Swin", "torchvision", _swin(1)),
    Family("Swin v2", "torchvision", _swin(2)),
    Family("MaxViT", "torchvision", _maxvit),
    Family("LR-ASPP", "torchvision", _Segmentation("lraspp_mobilenet_v3_large")),
    Family("R(2+1)D", "torchvision", _video),
    Family("GhostNet", "timm", _of_timm("ghostnet_050")),
    Family("HRNet", "timm", _of_timm("hrnet_w18_small")),
    Family("Res2Net", "timm", _res2net),
    Family("RepVGG", "timm", _of_timm("repvgg_a0")),
    Family("MLP-Mixer", "timm", _mixer("MLP-Mixer")),
    Family("gMLP", "timm", _mixer("gMLP")),
    Family("ResMLP", "timm", _mixer("ResMLP")),
    Family("PoolFormer", "timm", _of_timm("poolformer_s12")),
    Family("MobileViT", "timm", _of_timm("mobilevit_xxs")),
    Family("PVT v2", "timm", _of_timm("pvt_v2_b0")),
    Family("XCiT", "timm", _of_timm("xcit_nano_12_p16_224", img_size=64, depth=3)),
    Family("BEiT", "timm", _of_timm("beit_base_patch16_224", **SMALL)),
    Family("DeiT", "timm", _of_timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3)),
    Family("NFNet", "timm", _of_timm("nf_regnet_b0", kept="gain")),
    Family("EdgeNeXt", "timm", _of_timm("edgenext_xx_small")),
    Family("LeViT", "timm", _of_timm("levit_128s", 224)),
    Family("ConvMixer", "timm", _convmixer),
)  # fmt: skip
