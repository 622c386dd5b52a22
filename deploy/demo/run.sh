#!/bin/sh
# deploy/demo/run.sh [--moe] [FOLDER] - the whole system on this machine, without a GPU: draws scenes, trains a captioner on them
# with one coordinator, two workers and two loaders, captions 500 scenes nobody trained on, and judges the captions.
# Everything goes into FOLDER (default: blipren-demo in the current folder). Ends with a line
#   demo: right 0.934 ended 0.998 train_s 212
# Installed as blipren-demo, it uses the installed programs; in the source tree it sets up and builds first.
set -eu
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
projector=normal steps=1400 warmup=40
folder=
for argument; do
    case $argument in
    --moe) projector=moe steps=1800 warmup=60 ;;
    --help)
        echo "usage: $(basename "$0") [--moe] [FOLDER]   --moe: with the mixture of experts as projector"
        exit 0
        ;;
    -*)
        echo "usage: $(basename "$0") [--moe] [FOLDER]" >&2
        exit 2
        ;;
    *) folder=$argument ;;
    esac
done
[ -n "$folder" ] || folder=blipren-demo
[ "$projector" = normal ] || folder=$folder-moe

if [ -f "$here/demo.yaml" ]; then
    share=$here
    programs=${BLIPREN_BUILD:-$here/../../build}
    tools=$programs/deploy/demo
    [ -n "${BLIPREN_BUILD:-}" ] || { "$here/../setup.sh" && "$here/../build.sh" "$programs"; }
else
    share=$here/../share/blipren/demo
    programs=$here
    tools=$here
fi

mkdir -p "$folder"
cd "$folder"
echo "drawing scenes into $(pwd)"
[ -f train/metadata.jsonl ] || "$tools/blipren-demo-scenes" --out train --count 6000 --seed 1 --split train
[ -f held-out/metadata.jsonl ] || "$tools/blipren-demo-scenes" --out held-out --count 500 --seed 2 --split held-out
sed -e "s|@MODELS@|$share/models|; s|@PROJECTOR@|$projector|; s|@STEPS@|$steps|; s|@WARMUP@|$warmup|" "$share/demo.yaml" >demo.yaml

started=$(date +%s)
"$programs/blipren-coord" train demo.yaml --local 2,2
train_s=$(($(date +%s) - started))

echo "captioning 500 held-out scenes, half of them in each length"
caption() { # caption PREFIX OUT IMAGE...
    prefix=$1
    out=$2
    shift 2
    "$programs/blipren-worker" caption --checkpoint run/checkpoints/latest --prefix "$prefix" --json "$@" >"$out"
}
caption "Short caption:" short.jsonl held-out/0000[0-9]*.png held-out/0001*.png held-out/0002[0-4]*.png
caption "Long caption:" long.jsonl held-out/0002[5-9]*.png held-out/0003*.png held-out/0004*.png
"$programs/blipren-worker" caption --checkpoint run/checkpoints/latest --prefix "Long caption:" --attention attention.png --queries 0,4,8,11 \
    held-out/00040[0-7].png
verdict=$("$tools/blipren-demo-judge" --truth held-out/metadata.jsonl --captions short.jsonl --captions long.jsonl)
echo "$verdict"
echo "attention: $(pwd)/attention.png   curves: $(pwd)/run/curves.png"
value() { echo "$verdict" | tr ' ' '\n' | sed -n "s/^$1=//p"; }
echo "demo: right $(value right) ended $(value ended) train_s $train_s"
