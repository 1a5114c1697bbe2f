# The API, the page and the tools for agents in one image; compose.yaml runs the first two.
#
#   docker build -t diptych .
#   docker run --rm -p 127.0.0.1:8000:8000 -e DIPTYCH_API_KEYS=... -v "$HOME/Pictures:/photos:ro" -v diptych:/data diptych
#
# TORCH_BACKEND=cu128, say, builds it for a GPU.

FROM python:3.12-slim AS build
ARG TORCH_BACKEND=cpu
RUN python -m pip install --no-cache-dir 'uv==0.13.*' && python -m venv /venv
WORKDIR /build
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
RUN uv pip install --no-cache --python /venv/bin/python --torch-backend "$TORCH_BACKEND" \
    -c constraints.txt '.[agents,api,app,samples,search]'

FROM python:3.12-slim
RUN useradd --uid 10001 --no-create-home diptych && install --directory --owner diptych /data
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH DIPTYCH_CACHE=/data/cache HF_HOME=/data/hub MPLCONFIGDIR=/tmp PYTHONUNBUFFERED=1
USER 10001
WORKDIR /data
EXPOSE 8000 8501
ENTRYPOINT ["diptych"]
CMD ["serve", "--host", "0.0.0.0", "--index", "/data/index", "--root", "/photos"]
