#!/bin/sh
# Everything that needs a GPU, in one go: train both networks, calibrate, export, evaluate, plot.
#
#   sh training/gpu_run.sh DATA OUT [SECONDS]
#
# DATA     folder with wider/ and near/, or the .tar that training.pack made of one
# OUT      folder for checkpoints and, in OUT/result, the ONNX files, cards, logs, figures and plots
# SECONDS  stop after about so long (default 540) with exit status 75; the same command goes on from there
#
# PYTHON chooses the interpreter; BACKBONES is a folder with mobilenet_v2_imagenet.npz and, for VGG-16,
# vgg16.pth (torchvision) or vgg16.onnx (default: DATA/pretrained). Without a file a network starts from nothing.
set -eu
data=$1 out=$2 seconds=${3:-540}
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
began=$(date +%s)
mkdir -p "$out/result"

case $data in
*.tar)
    [ -d "$out/data/wider" ] || { mkdir -p "$out/data" && tar -xf "$data" -C "$out/data"; }
    data=$out/data ;;
esac
backbones=${BACKBONES:-$data/pretrained}

left() { echo $((seconds - $(date +%s) + began)); }
pause() { echo "time is up; the same command goes on from here"; exit 75; }

backbone_of() { # MODEL -> --backbone FILE, or nothing
    case $1 in
    ssd_mobilenet_v2) names=mobilenet_v2_imagenet.npz ;;
    ssd_vgg16) names="vgg16.pth vgg16.onnx" ;;
    *) names= ;;
    esac
    for name in $names; do
        [ ! -f "$backbones/$name" ] || { echo "--backbone $backbones/$name"; return; }
    done
}

learn() { # RUN MODEL EPOCHS BATCH
    [ ! -f "$out/$1/final.pt" ] || return 0
    [ "$(left)" -gt 30 ] || pause
    # shellcheck disable=SC2046  # two words are meant
    "$python" -m training.train "$2" --data "$data/wider" --out "$out/$1" --epochs "$3" --batch "$4" \
        $(backbone_of "$2") --workers "${WORKERS:-12}" --save-s 60 --log-steps 50 --seconds "$(($(left) - 15))"
    [ -f "$out/$1/final.pt" ] || pause
}

finish() { # RUN MODEL SIZE NAME
    [ ! -f "$out/result/$4.txt" ] || return 0
    [ "$(left)" -gt 120 ] || pause
    "$python" -m training.export "$2" --weights "$out/$1/final.pt" --size "$3" --out "$out/raw" --name "$4"
    fit=$("$python" -m training.evaluate "$out/raw/$4.onnx" --data "$data" --calibrate | tail -n 1)
    # shellcheck disable=SC2086  # "--factor A --shift B"
    "$python" -m training.export "$2" --weights "$out/$1/final.pt" --size "$3" --out "$out/result" --name "$4" $fit
    "$python" -m training.evaluate "$out/result/$4.onnx" --data "$data" --save --plots "$out/result" \
        > "$out/result/$4.new"
    mv "$out/result/$4.new" "$out/result/$4.txt"
    cat "$out/result/$4.txt"
}

learn mobilenet_200 ssd_mobilenet_v2 200 64
finish mobilenet_200 ssd_mobilenet_v2 320x320 ssd_mobilenet_v2
finish mobilenet_200 ssd_mobilenet_v2 480x272 ssd_mobilenet_v2_480x272
learn mobilenet_50 ssd_mobilenet_v2 50 32
finish mobilenet_50 ssd_mobilenet_v2 300x300 ssd_mobilenet_v2_50_epochs
learn vgg_50 ssd_vgg16 50 32
finish vgg_50 ssd_vgg16 300x300 ssd_vgg16_50_epochs
for run in mobilenet_200 mobilenet_50 vgg_50; do
    cp "$out/$run/log.jsonl" "$out/result/$run.jsonl"
done
"$python" -m training.curves "$out/mobilenet_50/log.jsonl" "$out/vgg_50/log.jsonl" \
    --out "$out/result/training-convergence.svg"
echo "all of it is in $out/result"
