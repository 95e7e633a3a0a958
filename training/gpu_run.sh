#!/bin/sh
# Everything that needs a GPU: train, calibrate, export, evaluate, plot.
#
#   sh training/gpu_run.sh DATA OUT [SECONDS [RUN...]]
#
# DATA     folder with wider/ and near/, or the .tar that training.pack made of one
# OUT      folder for checkpoints and, in OUT/result, the ONNX files, cards, logs, figures and plots
# SECONDS  stop after about so long (default 540) with exit status 75; the same command goes on from there
# RUN      what to do, one after the other (default: all but the ablations). A small network leaves most of a large
#          GPU idle: start the script several times with other RUNs, the same DATA and the same OUT.
#
#   long vgg_50 mobilenet_50 blazeface    the networks of docs/results.md
#   ablations                             all short runs that each change one thing; or one, as ablation_matching
#
# PYTHON chooses the interpreter; BACKBONES is a folder with ImageNet's weights, torchvision's mobilenet_v2-*.pth and
# vgg16-*.pth or others that training.train takes (default: DATA/pretrained; a .tar brings none); without a file a
# network starts from nothing, and the script says so. WORKERS
# processes draw the views. EPOCHS is the length of the long run, ABLATION_EPOCHS, ABLATION_BATCH and ABLATION_SIZE are
# those of an ablation: short ones can be had on a CPU. TRAINED_ON names the data in the cards. Where DATA has no test
# pictures, only training is done: bring OUT to a machine that has them and run the same command there.
set -eu
data=$1 out=$2 seconds=${3:-540}
if [ $# -gt 3 ]; then shift 3; else set -- long vgg_50 mobilenet_50 blazeface; fi
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
    ssd_mobilenet_v2*) name=mobilenet_v2 ;;
    ssd_vgg16) name=vgg16 ;;
    *) return ;;
    esac
    for file in "$backbones/$name"[-_.]*; do
        [ ! -f "$file" ] || { echo "--backbone $file"; return; }
    done
    echo "no $name* in $backbones: $1 learns from nothing" >&2
}

learn() { # RUN MODEL EPOCHS BATCH OPTION...
    run=$1 model=$2 epochs=$3 batch=$4
    shift 4
    [ ! -f "$out/$run/final.pt" ] || return 0
    [ "$(left)" -gt 30 ] || pause
    mkdir -p "$out/$run"
    # shellcheck disable=SC2046  # two words are meant
    "$python" -m training.train "$model" --data "$data/wider" --out "$out/$run" --epochs "$epochs" --batch "$batch" \
        $(backbone_of "$model") --workers "${WORKERS:-4}" --save-s 60 --log-steps 50 --seconds "$(($(left) - 15))" \
        "$@" >>"$out/$run/out.log" 2>&1 || { tail -n 20 "$out/$run/out.log"; exit 1; }
    [ -f "$out/$run/final.pt" ] || pause
    tail -n 1 "$out/$run/log.jsonl"
}

finish() { # RUN MODEL SIZE NAME: calibrated, exported, evaluated
    [ -d "$data/wider/WIDER_val" ] || return 0
    [ ! -f "$out/result/$4.txt" ] || return 0
    [ "$(left)" -gt 120 ] || pause
    "$python" -m training.export "$2" --weights "$out/$1/final.pt" --size "$3" --out "$out/raw" --name "$4"
    "$python" -m training.calibration "$out/raw/$4.onnx" --data "$data" >"$out/raw/$4.calibration"
    fit=$(tail -n 1 "$out/raw/$4.calibration")
    # shellcheck disable=SC2086  # "--factor A --shift B..."
    "$python" -m training.export "$2" --weights "$out/$1/final.pt" --size "$3" --out "$out/result" --name "$4" $fit \
        --trained-on "${TRAINED_ON:-}"
    "$python" -m training.evaluate "$out/result/$4.onnx" --data "$data" --save --plots "$out/result" \
        > "$out/result/$4.new"
    mv "$out/result/$4.new" "$out/result/$4.txt"
    cp "$out/$1/log.jsonl" "$out/result/$1.jsonl"
    cat "$out/result/$4.txt"
}

ablation() { # NAME MODEL OPTION...
    name=ablation_$1 model=$2
    shift 2
    learn "$name" "$model" "$epochs_of_ablations" "${ABLATION_BATCH:-128}" --size "${ABLATION_SIZE:-320x320}" \
        --validate-every "$epochs_of_ablations" "$@"
    cp "$out/$name/log.jsonl" "$out/result/$name.jsonl"
}

epochs_of_ablations=${ABLATION_EPOCHS:-12}
ablations="none matching loss windows blocks norm stride_8 ratios paper"
runs=
for run in "$@"; do
    if [ "$run" = ablations ]; then for one in $ablations; do runs="$runs ablation_$one"; done; else runs="$runs $run"; fi
done
for run in $runs; do
    case $run in
    long)
        learn long ssd_mobilenet_v2 "${EPOCHS:-200}" 128 --size 320x320 480x272 --validate-every 20 \
            --change frozen_blocks=0 is_norm_frozen=false rate=0.0007
        finish long ssd_mobilenet_v2 320x320 ssd_mobilenet_v2
        finish long ssd_mobilenet_v2 480x272 ssd_mobilenet_v2_480x272 ;;
    vgg_50) # the article's comparison: both alike, by the paper's recipe
        learn vgg_50 ssd_vgg16 50 32 --recipe paper --validate-every 2
        finish vgg_50 ssd_vgg16 300x300 ssd_vgg16_50_epochs ;;
    mobilenet_50)
        learn mobilenet_50 ssd_mobilenet_v2 50 32 --recipe paper --size 300x300 --validate-every 2
        finish mobilenet_50 ssd_mobilenet_v2 300x300 ssd_mobilenet_v2_50_epochs ;;
    blazeface)
        learn blazeface blazeface 200 128 --validate-every 20 --change windows=close
        finish blazeface blazeface 128x128 blazeface ;;
    ablation_none) ablation none ssd_mobilenet_v2 ;;
    ablation_matching) ablation matching ssd_mobilenet_v2 --change matching=overlap ;;
    ablation_loss) ablation loss ssd_mobilenet_v2 --change loss=multibox ;;
    ablation_windows) ablation windows ssd_mobilenet_v2 --change windows=paper ;;
    ablation_blocks) ablation blocks ssd_mobilenet_v2 --change frozen_blocks=0 ;;
    ablation_norm) ablation norm ssd_mobilenet_v2 --change frozen_blocks=0 is_norm_frozen=false ;;
    ablation_stride_8) ablation stride_8 ssd_mobilenet_v2_stride_8 ;;
    ablation_ratios) ablation ratios ssd_mobilenet_v2_ratios ;;
    ablation_paper) ablation paper ssd_mobilenet_v2 --recipe paper ;;
    *) echo "gpu_run.sh: there is no run called $run" >&2; exit 2 ;;
    esac
done
if [ -f "$out/result/mobilenet_50.jsonl" ] && [ -f "$out/result/vgg_50.jsonl" ]; then
    "$python" -m training.curves "$out/mobilenet_50/log.jsonl" "$out/vgg_50/log.jsonl" \
        --out "$out/result/training-convergence.svg"
fi
echo "all of it is in $out/result"
