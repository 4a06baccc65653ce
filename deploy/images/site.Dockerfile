# A site: PyTorch, no compiler, no root, no port. Build: docker build -f deploy/images/site.Dockerfile -t hansa-site .
FROM python:3.11-slim AS build
WORKDIR /src
COPY . .
ARG TORCH=
RUN python -m venv /opt/hansa \
 && /opt/hansa/bin/pip install --no-cache-dir "${TORCH:-$(grep '^torch==' constraints.txt)}" \
 && grep -v "^torch==" constraints.txt > /tmp/constraints.txt \
 && /opt/hansa/bin/pip install --no-cache-dir -c /tmp/constraints.txt '.[site]'

FROM python:3.11-slim
RUN useradd --uid 10001 --create-home hansa && install -d -o hansa -m 0700 /var/lib/hansa
COPY --from=build /opt/hansa /opt/hansa
ENV PATH=/opt/hansa/bin:$PATH HANSA_SITE=/var/lib/hansa/site PYTHONDONTWRITEBYTECODE=1 FLWR_TELEMETRY_ENABLED=0
USER hansa
WORKDIR /var/lib/hansa
VOLUME /var/lib/hansa
HEALTHCHECK --interval=30s --timeout=10s CMD ["hansa", "site", "status"]
ENTRYPOINT ["hansa"]
CMD ["site", "start"]
