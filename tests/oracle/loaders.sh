#!/bin/bash
# tests/oracle/loaders.sh - prints a folder for PYTHONPATH with Mosaic Streaming, installed there first if it is missing. Its own
# requirements name clients of every cloud and an older transformers than the other evidence needs; reading local shards needs none
# of them, so it is installed without, beside the virtual environment of venv.sh.
set -euo pipefail
folder=${BLIPREN_VENV:-$HOME/.cache/blipren/venv}-mosaic
python=$("$(dirname "$0")/venv.sh" torch)
exec 9>"$folder.lock"
flock 9
if [ ! -d "$folder/streaming" ]; then
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder.part" \
        mosaicml-streaming==0.13.0 brotli==1.2.0 zstd==1.5.7.2 python-snappy==0.7.3 cramjam==2.11.0 xxhash==3.6.0 catalogue==2.0.10 >&2
    mv "$folder.part" "$folder"
fi
echo "$folder"
