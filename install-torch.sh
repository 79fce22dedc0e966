#!/bin/sh
# Install the pinned PyTorch: the CUDA build only where there is an NVIDIA GPU, else the CPU build (200 MB, not 5 GB).
# Usage: install-torch.sh PYTHON
set -eu
python=$1
pinned=$(sed -n 's/^torch==//p' "$(dirname "$0")/constraints.txt")
install() { "$python" "$(dirname "$0")/install.py" "$python" "$@"; }

if [ "$(uname)" != Linux ] || [ -e /proc/driver/nvidia/version ]; then
    install "torch==$pinned"
elif ! install "torch==$pinned+cpu" 2>/dev/null; then
    # The ordinary index has only CUDA builds for Linux; uv knows where PyTorch keeps the CPU ones.
    echo "installing the CPU build of PyTorch with uv"
    install -c "$(dirname "$0")/constraints.txt" uv
    "$python" -m uv pip install --python "$python" --torch-backend=cpu "torch==$pinned"
fi
