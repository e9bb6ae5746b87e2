# The project with the packages of requirements.lock. By default it serves; other commands run the workflow or one step.
#
#   make image                    # docker build -t purchase-predict, with a label that identifies the source
#   docker run -p 127.0.0.1:5001:5001 -v state:/state -v ./token:/run/secrets/token:ro \
#     -e MLFLOW_TRACKING_URI=http://<server>:5000 -e ENV=production purchase-predict
#   docker run -e MLFLOW_TRACKING_URI=http://<server>:5000 purchase-predict mlflow run . --env-manager local -P max_evals=1
FROM python:3.11.13-slim-bookworm AS packages
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends libgomp1 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir 'pip==26.3'
COPY requirements.lock .
# The lock has hashes, so pip checks every file.
RUN /venv/bin/pip install --no-cache-dir -r requirements.lock && /venv/bin/python -m compileall -qq -j 0 /venv/lib || true

FROM python:3.11.13-slim-bookworm
# LightGBM needs OpenMP's library; MLflow asks git for the commit of the project.
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends libgomp1 git && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 shop && mkdir /state /answers && chown shop /state /answers
COPY --from=packages /venv /venv
# The server's default state is below XDG_STATE_HOME, in one file per registered model and environment.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 DO_NOT_TRACK=true XDG_STATE_HOME=/state
WORKDIR /project
COPY --chown=shop MLproject conda.yaml pyproject.toml requirements.lock main.py .env ./
COPY --chown=shop steps steps
COPY --chown=shop purchase_predict purchase_predict
# The launcher of a Job compares this label with its own source before it starts a pod
# (purchase_predict/kubernetes/image.py).
ARG SOURCE=""
LABEL purchase-predict.source=$SOURCE
USER shop
VOLUME ["/state", "/answers"]
EXPOSE 5001
# Each request needs the token, including this one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-c", "import os, pathlib, urllib.request as u; \
from purchase_predict.serving.token_file import text_of; \
token = text_of(pathlib.Path(os.environ.get('TOKEN_FILE', '/run/secrets/token'))); \
u.urlopen(u.Request('http://127.0.0.1:5001/ready', headers={'Authorization': 'Bearer ' + token}), timeout=4)"]
# `exec` lets SIGTERM reach the server, which ends after the requests in progress.
CMD ["sh", "-c", "exec python -m steps.serve --host=0.0.0.0 --state=\"${STATE:-}\" --token_file=\"${TOKEN_FILE:-/run/secrets/token}\" --answers=\"${ANSWERS-/answers}\" --warm=\"${WARM:-}\" --shadow=\"${SHADOW:-}\""]
