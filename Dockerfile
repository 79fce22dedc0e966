# Serves a bundle (`daybreak export`): no torch in it, a user without rights, and a file system that may be read-only.
#
#     docker build -t daybreak .
#     docker run --read-only --tmpfs /tmp --cap-drop ALL -p 8000:8000 -e DAYBREAK_TOKEN=... -v ./BUNDLE:/bundle:ro daybreak
FROM python:3.12-slim

ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 MPLCONFIGDIR=/tmp

WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY docker/serve.txt docker/serve.txt
RUN pip install --no-cache-dir -c constraints.txt -r docker/serve.txt
COPY src src
RUN pip install --no-cache-dir --no-deps . && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin daybreak

WORKDIR /
USER 10001
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8000, timeout=3); c.request('GET', '/healthz'); exit(c.getresponse().status != 200)"]
ENTRYPOINT ["daybreak"]
CMD ["serve", "/bundle", "--host", "0.0.0.0", "--log", "json"]
