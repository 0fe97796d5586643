"""Preprocessing by name: what common models were trained on. Sources are named beside the numbers."""

from dataclasses import dataclass

_IMAGENET = "mean=0.485,0.456,0.406,std=0.229,0.224,0.225"
_CLIP = "mean=0.48145466,0.4578275,0.40821073,std=0.26862954,0.26130258,0.27577711"


@dataclass(frozen=True)
class Preset:
    """What a name stands for, the size where the model has none (0: no size), and what it is for."""

    text: str
    size: int
    why: str


PRESETS = {
    "imagenet": Preset(
        f"resize=short,crop=0.875,{_IMAGENET}", 224, "torchvision and most of timm: ResNet, MobileNet, ..."
    ),
    "dinov2": Preset(
        f"resize=short,crop=0.875,filter=bicubic,{_IMAGENET}", 224, "DINOv2, ConvNeXt: as imagenet, bicubic"
    ),
    "tf": Preset("resize=short,crop=0.875,mean=0.5,std=0.5", 224, "Keras in tf mode: MobileNet, -1 to 1"),
    "inception": Preset(
        "resize=short,crop=0.875,filter=bicubic,mean=0.5,std=0.5", 299, "Inception, Xception: -1 to 1"
    ),
    "caffe": Preset(
        "resize=short,crop=0.875,colour=bgr,mean255=103.939,116.779,123.68",
        224,
        "Keras in caffe mode: VGG, ResNet50",
    ),
    "efficientnet-lite": Preset(
        "resize=short,crop=0.875,filter=bicubic,mean255=127,std255=128", 224, "EfficientNet-Lite"
    ),
    "vit": Preset("resize=exact,mean=0.5,std=0.5", 224, "ViT of google/vit-*: -1 to 1"),
    "clip": Preset(f"resize=short,filter=bicubic,{_CLIP}", 224, "OpenAI's CLIP and OpenCLIP"),
    "siglip": Preset("resize=exact,filter=bicubic,mean=0.5,std=0.5", 224, "SigLIP: -1 to 1"),
    "yolo": Preset("resize=pad,fill=114,mean=0,std=1", 640, "Ultralytics YOLO: 0 to 1, padded to the frame"),
    "yolox": Preset(
        "resize=pad,place=corner,fill=114,colour=bgr,mean255=0,std255=1", 640, "YOLOX: BGR of 0 to 255"
    ),
    "ppocr-det": Preset(
        f"resize=none,multiple=32,colour=bgr,{_IMAGENET}", 0, "PaddleOCR's detectors; sides fall on 32"
    ),
    "ppocr-rec": Preset(
        "resize=pad,place=corner,fill=127.5,colour=bgr,mean=0.5,std=0.5", 0, "PaddleOCR's recognisers"
    ),
    "unit": Preset("resize=exact,mean=0,std=1", 224, "pixels of 0 to 1"),
    "raw": Preset("resize=exact,mean255=0,std255=1", 224, "pixels of 0 to 255: models that normalise inside"),
    "wav2vec2": Preset("rate=16000,normalize=zscore", 0, "wav2vec 2.0, HuBERT: sound of mean 0, deviation 1"),
    "crepe": Preset("rate=16000,normalize=zscore", 0, "CREPE: each window of mean 0, deviation 1"),
}
"""By name"""
