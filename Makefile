# Every target with a ## line is in `make help`.
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT    ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS    = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# fwatchdog speaks HTTP/1.1 on both sides; the tag leaves net/http's HTTP/2 out.
TAGS       = nethttpomithttp2
BUILD      = CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS)
PACKAGES   = ./...
FUZZTIME  ?= 20s
IMAGE     ?= weir/fwatchdog:latest
PLATFORM  ?= linux/$(shell $(GO) env GOHOSTARCH)

.PHONY: help build test lint bench sweep plots fuzz run image docs clean

help: ## Print this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-8s %s\n", $$1, $$2}'

build: ## Build fwatchdog and fwatchdog-classic into bin/
	$(BUILD) -ldflags '$(LDFLAGS)' -o bin/fwatchdog .
	$(BUILD) -ldflags '$(LDFLAGS) -X main.defaultMode=classic' -o bin/fwatchdog-classic .

test: ## Run every test that needs neither root nor a cluster, under the race detector
	$(GO) test -race -timeout 20m $(PACKAGES)

lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet $(PACKAGES)
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0 $(PACKAGES)

bench: ## Measure the table of docs/PERFORMANCE.md; PEER=path adds another watchdog
	$(GO) run ./bench $(if $(PEER),-peer $(PEER))

sweep: ## Measure the curves of docs/BACKPRESSURE.md anew; 8 minutes, as root in a memory cgroup
	$(GO) run ./bench -sweep docs/backpressure
	$(MAKE) plots

plots: ## Draw the curves of docs/BACKPRESSURE.md from the data that is checked in
	$(GO) run ./bench/plot docs/backpressure docs/BACKPRESSURE.md

fuzz: ## Run every fuzz target for FUZZTIME (20s) each
	@set -e; for dir in $$($(GO) list -f '{{.Dir}}' $(PACKAGES)); do \
	  for target in $$(grep -ho '^func Fuzz[A-Za-z0-9_]*' $$dir/*_test.go 2>/dev/null | sed 's/func //'); do \
	    echo "$$target in $$dir"; $(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) $$dir; done; done

run: build ## Start fwatchdog in front of a sample handler and print the URLs to try
	@$(GO) build -o bin/hello ./testdata/handlers/hello
	@printf '\nTry, in another terminal:\n  curl -i localhost:8080/\n  curl -i localhost:8080/_/ready\n  curl -s localhost:8081/metrics | grep http_requests\nCtrl-C drains and stops it.\n\n'
	@# Without a terminal for the handler, Ctrl-C is fwatchdog's.
	@exec env mode=http fprocess=bin/hello upstream_url=http://127.0.0.1:3000 max_inflight=50 bin/fwatchdog </dev/null

image: ## Build the image that functions copy fwatchdog from (ENGINE, IMAGE, PLATFORM, GO_IMAGE, IMAGE_FLAGS)
	@engine='$(ENGINE)'; \
	if [ -z "$$engine" ]; then \
	  if docker info >/dev/null 2>&1; then engine=docker; \
	  elif podman --version >/dev/null 2>&1; then engine=podman; \
	  elif buildah --version >/dev/null 2>&1; then engine=buildah; \
	  else echo 'make image needs docker with a running engine, podman or buildah' >&2; exit 1; fi; \
	fi; \
	set --; \
	if [ $$engine != docker ]; then set -- --format docker --build-arg BUILDPLATFORM=linux/$$($(GO) env GOHOSTARCH); fi; \
	set -x; $$engine build "$$@" --platform $(PLATFORM) $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) \
	  --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) $(IMAGE_FLAGS) -f Dockerfile.watchdog -t $(IMAGE) .

docs: ## Write the generated tables anew
	$(GO) test ./watchdog -run TestDocs -update

clean: ## Remove what was built
	rm -rf bin
