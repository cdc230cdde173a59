# A bridge that trains on the CPU of a board whose system is too old for install.sh, such as JetPack 5 and 6:
#   docker build --tag fedkeeper-bridge:cpu --file cpu.Dockerfile .
# This folder must hold the wheel of FedKeeper. Debian 12, because its Python 3.11 is the one that our tests run with.
# The tag is not pinned by a digest: each build gets Debian's newest security updates.
FROM debian:bookworm-slim

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates python3-venv \
    && rm -rf /var/lib/apt/lists/*

# On arm64 torch 2.10 is the last on PyPI without CUDA: 2.11 and newer download 2.9 GB that no CPU uses. On amd64 all of
# PyPI's have CUDA. There, give TORCH=torch and the index of torch's CPU builds as PIP_EXTRA_INDEX_URL.
ARG TORCH="torch>=2.6,<2.11"
ARG PIP_EXTRA_INDEX_URL
# train,data also reads Parquet files and folders of images.
ARG EXTRAS="train"
COPY fedkeeper-*.whl /tmp/
RUN python3 -m venv /opt/fedkeeper \
    && /opt/fedkeeper/bin/pip install --no-cache-dir "$(ls /tmp/fedkeeper-*.whl)[${EXTRAS}]" "${TORCH}"

# Not root. A new volume at /var/lib/fedkeeper gets the owner of this folder.
RUN useradd --uid 10001 --user-group --no-log-init --home-dir /var/lib/fedkeeper fedkeeper \
    && install -d -o 10001 -g 10001 -m 700 /var/lib/fedkeeper
USER 10001:10001
WORKDIR /var/lib/fedkeeper
ENTRYPOINT ["/opt/fedkeeper/bin/fedkeeper"]
