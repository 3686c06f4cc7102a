#!/usr/bin/env bash
# Makes a virtual environment with innerloop and its peers: benchmarks/peers/install.sh FOLDER
# Needs a C compiler and Python's headers, for learn2learn.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
folder=$(realpath -m "${1:?give the folder to make the virtual environment in}")
cd "$root"
python3 -m venv "$folder"
pip=("$folder/bin/python" -m pip)

# torch by itself first: chosen along with the others it may come with gigabytes of CUDA.
"${pip[@]}" install "$(grep '^torch==' constraints.txt)"
"${pip[@]}" install -c constraints.txt -e .
"${pip[@]}" install -c constraints.txt higher==0.2.1 torchopt==0.7.3 optree==0.20.0 jax==0.10.2

# learn2learn is only published as source, with C files of an old Cython that Python has moved past;
# its setup.py makes them anew when it sees build_ext. Of all that it asks for, MAML needs what
# stands here: gym, torchvision, qpth and gsutil stay out (see l2l.py).
"${pip[@]}" install -c constraints.txt "setuptools>=70.1" "cython==3.3.1" requests==2.34.2 tqdm==4.70.1
"${pip[@]}" install --no-deps --no-build-isolation --config-settings=--global-option=build_ext learn2learn==0.2.0

# For benchmarks/policies.py: robots, and cherry, which learn2learn's examples of policies are built on (without gym, see l2l_trpo.py).
"${pip[@]}" install -c constraints.txt "gymnasium[mujoco]" "mujoco>=4"
"${pip[@]}" install --no-deps cherry-rl==0.2.0 dotmap==1.3.30
