# The image of weir: gateway and autoscaler. `make image-weir` builds it;
# Dockerfile.watchdog says what the arguments are.
ARG GO_IMAGE=golang:1.26-alpine

FROM --platform=${BUILDPLATFORM} ${GO_IMAGE} AS build
ARG GOPROXY=
WORKDIR /src
COPY . .
ARG TARGETOS
ARG TARGETARCH
ARG VERSION=dev
ARG COMMIT=unknown
RUN CGO_ENABLED=0 GOOS="$TARGETOS" GOARCH="$TARGETARCH" go build -trimpath -buildvcs=false \
    -ldflags "-s -w -buildid= -X main.version=$VERSION -X main.commit=$COMMIT" -o /out/weir ./cmd/weir

FROM scratch
ARG VERSION=dev
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="weir" \
      org.opencontainers.image.description="Scales plain Deployments to and from zero: gateway and autoscaler" \
      org.opencontainers.image.source="https://github.com/weir-run/weir" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${COMMIT}"
COPY --from=build /out/ /
USER 65532:65532
EXPOSE 8080 8082
ENTRYPOINT ["/weir"]
