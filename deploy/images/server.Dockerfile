# The coordinator: no torch, no compiler, no root. Build: docker build -f deploy/images/server.Dockerfile -t hansa-server .
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
RUN python -m venv /opt/hansa \
 && grep -v "^torch==" constraints.txt > /tmp/constraints.txt \
 && /opt/hansa/bin/pip install --no-cache-dir -c /tmp/constraints.txt '.[server]'

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home hansa && install -d -o hansa -m 0700 /var/lib/hansa
COPY --from=build /opt/hansa /opt/hansa
ENV PATH=/opt/hansa/bin:$PATH HANSA_SERVER=/var/lib/hansa/server PYTHONDONTWRITEBYTECODE=1 FLWR_TELEMETRY_ENABLED=0
USER hansa
WORKDIR /var/lib/hansa
VOLUME /var/lib/hansa
EXPOSE 8442 8443
HEALTHCHECK --interval=30s --timeout=10s CMD ["hansa", "server", "status"]
ENTRYPOINT ["hansa"]
CMD ["server", "start"]
