# The FL server and the local bridge. On arm64 the image has no CUDA. On amd64, for an image without CUDA, pass pip the
# index of torch's CPU builds as PIP_EXTRA_INDEX_URL.
FROM python:3.11-slim
WORKDIR /app
ARG PIP_EXTRA_INDEX_URL
COPY requirements.lock pyproject.toml README.md LICENSE ./
RUN pip install --no-cache-dir -r requirements.lock
COPY broker broker
COPY server server
COPY client_fn client_fn
COPY bridges bridges
COPY fedkeeper fedkeeper
COPY configs configs
RUN pip install --no-cache-dir --no-deps --no-build-isolation .
# Not root. A new volume at /data gets the owner of this folder.
RUN useradd --uid 1000 --create-home fedkeeper && install -d -o fedkeeper /data
USER fedkeeper
