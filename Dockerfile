# certifier as a container image. Its certificates and its own CA live in the volume /data:
#   docker build -t certifier .
#   docker run --stop-timeout=20 -p 127.0.0.1:8080:8080 -v certifier:/data certifier
# Tunnels may take 10 s to finish, after which Docker would already kill; so the longer time to stop.
# BASE is any Debian-like tree with python3 (3.11 or newer), its venv module and ca-certificates.
ARG BASE=python:3.13-slim
FROM ${BASE}

# A fixed UID: hosts that require a non-root user can check it, and a volume keeps its owner across base images.
# /data holds the CA's private key, so nobody else may read it.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /data --shell /usr/sbin/nologin certifier \
    && install -d -o 10001 -g 10001 -m 0700 /data

# Before the program, so that a change to that does not reinstall everything.
COPY --chmod=0644 requirements.txt /opt/certifier/
RUN python3 -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --disable-pip-version-check -r /opt/certifier/requirements.txt

# Explicit modes: a checkout made under a strict umask would be unreadable for the user below.
COPY --chmod=0644 *.py /opt/certifier/
COPY --chmod=0644 page/*.* /opt/certifier/page/

# The user below can't write bytecode there, so each start would compile everything again: 0.1 s.
RUN /opt/venv/bin/python -m compileall -q /opt/certifier

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM

# It asks port 8080: listen there, and publish that as another if need be.
# http.client, not urllib, which would use a proxy set in the container's environment.
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/opt/venv/bin/python", "-I", "-c", "import http.client as h; c = h.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/healthz'); raise SystemExit(c.getresponse().status != 200)"]

ENTRYPOINT ["/opt/venv/bin/python", "/opt/certifier/certifier.py"]
# --open: who can connect depends on where the port is published; beyond 127.0.0.1, add --auth or --allow-from.
CMD ["--store=/data/certs", "--max=1000", "--ca=/data/ca", "--listen=0.0.0.0:8080", "--open"]
