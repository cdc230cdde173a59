# A bridge that trains on the GPU of a Jetson Orin with JetPack 6, whose Python 3.10 is too old for install.sh:
#   docker build --tag fedkeeper-bridge:jetpack6 --file jetpack6.Dockerfile .
# This folder must hold the wheel of FedKeeper. JetPack 7 needs no container; Xavier and Thor can't use this image.
#
# Never tried on a Jetson, nor with this base image: its steps were only tried on a Debian with torch on the CPU. The tag
# is not pinned by a digest. It is the last one with `-igpu`: Python 3.12, torch 2.11 built for Orin (sm_87), CUDA 12.9.
# https://docs.nvidia.com/deeplearning/frameworks/pytorch-release-notes/
ARG BASE_IMAGE=nvcr.io/nvidia/pytorch:26.02-py3-igpu
FROM ${BASE_IMAGE}

# NVIDIA's torch and numpy are used as they are. What FedKeeper needs besides goes into an environment in front of them,
# also where it is newer than in /etc/pip/constraint.txt, which pins what NVIDIA has tested. The last command stops the
# build if pip has replaced torch, or numpy by one that torch can't use.
ENV PIP_CONSTRAINT=""
COPY fedkeeper-*.whl /tmp/
RUN python3 -m venv --system-site-packages --without-pip /opt/fedkeeper \
    && python3 -m pip --python /opt/fedkeeper/bin/python install --no-cache-dir /tmp/fedkeeper-*.whl torchmetrics \
    && test ! -e /opt/fedkeeper/lib/python3*/site-packages/torch \
    && /opt/fedkeeper/bin/python -c 'import numpy, torch; torch.from_numpy(numpy.zeros(1)).numpy()'

# Not root. A new volume at /var/lib/fedkeeper gets the owner of this folder.
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /var/lib/fedkeeper fedkeeper \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/fedkeeper
USER 10001:10001
WORKDIR /var/lib/fedkeeper
ENTRYPOINT ["/opt/fedkeeper/bin/fedkeeper"]
