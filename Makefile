# Every target with a ## line is in `make help`.
GO        ?= go
VERSION   ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
COMMIT    ?= $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)
LDFLAGS    = -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
# fwatchdog speaks HTTP/1.1 on both sides; the tag leaves net/http's HTTP/2 out.
TAGS       = nethttpomithttp2
BUILD      = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
PACKAGES   = ./...
FUZZTIME  ?= 20s
IMAGE      ?= weir/fwatchdog:latest
IMAGE_WEIR ?= weir/weir:latest
PLATFORM  ?= linux/$(shell $(GO) env GOHOSTARCH)

# The one that e2e-deps builds, else the one that is installed.
HELM      ?= $(firstword $(wildcard bin/kube/helm) helm)

.PHONY: help build test lint e2e-deps e2e e2e-long bench sweep plots sim fuzz run image image-weir deploy docs clean

help: ## Print this
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-10s %s\n", $$1, $$2}'

build: ## Build weir, fwatchdog and fwatchdog-classic into bin/
	$(BUILD) -o bin/weir ./cmd/weir
	$(BUILD) -tags $(TAGS) -o bin/fwatchdog .
	CGO_ENABLED=0 $(GO) build -trimpath -tags $(TAGS) -ldflags '$(LDFLAGS) -X main.defaultMode=classic' -o bin/fwatchdog-classic .

test: ## Run every test that needs no cluster, under the race detector; with an API server if e2e-deps built one
	WEIR_KUBE_BIN=$(if $(wildcard bin/kube/kube-apiserver),$(CURDIR)/bin/kube) $(GO) test -race -timeout 30m $(PACKAGES)
	cd test/cluster && $(GO) test -race .

lint: ## gofmt, go vet and staticcheck
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { gofmt -l $$(git ls-files '*.go'); echo 'run gofmt -w on these'; exit 1; }
	$(GO) vet $(PACKAGES)
	cd test/cluster && $(GO) vet .
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.7.0 $(PACKAGES)

e2e-deps: ## Install and build what a Kubernetes node needs (as root; 10 minutes the first time)
	cd test/cluster && $(GO) build -o ../../bin/cluster .
	bin/cluster deps
	bin/cluster build -bin bin/kube

e2e: ## Try weir on a real Kubernetes node on this machine, as root, after make e2e-deps
	E2E=1 $(GO) test -count=1 -v -timeout 30m ./test/e2e

e2e-long: ## The same with the long loops
	ASYNC_ROUNDS=50 $(GO) test -race -count=1 -v -timeout 60m -run '^Test(Killed(Weirs|Server|Pods)|Cluster)$$' ./cmd/weir
	E2E=1 E2E_LONG=1 $(GO) test -count=1 -v -timeout 90m ./test/e2e

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

run: build ## Start weir with three sample functions, all at zero, and print the URLs to try
	$(BUILD) -o bin/functions/ ./testdata/functions/...
	@printf '%s\n' '' 'Try, in another terminal:' \
	  '  curl -i localhost:8080/function/hello' \
	  '  echo one two three | curl --data-binary @- localhost:8080/function/wc' \
	  '  for i in $$(seq 40); do curl -s "localhost:8080/function/slow?ms=2000" & done; wait' \
	  '  curl -s localhost:8080/status-functions' \
	  '  curl -s localhost:8080/system/function/slow' \
	  '  curl -i -d "one two three" localhost:8080/async-function/wc' \
	  '  curl -s localhost:8080/async-call/ID     # the ID of the line before' \
	  '  curl -s localhost:8082/metrics | grep weir_' \
	  'Ctrl-C drains and stops it.' ''
	@exec env WEIR_PROVIDER=local WEIR_STACK=testdata/stack.yaml WEIR_DATA_DIR=bin/data WEIR_LISTEN=127.0.0.1:8080 WEIR_METRICS_LISTEN=127.0.0.1:8082 bin/weir </dev/null

sim: ## Play shapes of load through the autoscaler and draw docs/SCALING.md anew
	$(GO) run ./bench/sim docs/scaling docs/SCALING.md

image: ## Build the image that functions copy fwatchdog from (ENGINE, IMAGE, PLATFORM, GO_IMAGE, IMAGE_FLAGS)
	$(call build-image,image,Dockerfile.watchdog,$(IMAGE))

image-weir: ## Build the image of weir (ENGINE, IMAGE_WEIR, PLATFORM, GO_IMAGE, IMAGE_FLAGS)
	$(call build-image,image-weir,Dockerfile,$(IMAGE_WEIR))

# $(call build-image,TARGET,DOCKERFILE,NAME)
define build-image
	@engine='$(ENGINE)'; \
	if [ -z "$$engine" ]; then \
	  if docker info >/dev/null 2>&1; then engine=docker; \
	  elif podman --version >/dev/null 2>&1; then engine=podman; \
	  elif buildah --version >/dev/null 2>&1; then engine=buildah; \
	  else echo 'make $(1) needs docker with a running engine, podman or buildah' >&2; exit 1; fi; \
	fi; \
	set --; \
	if [ $$engine != docker ]; then set -- --format docker --build-arg BUILDPLATFORM=linux/$$($(GO) env GOHOSTARCH); fi; \
	set -x; $$engine build "$$@" --platform $(PLATFORM) $(if $(GO_IMAGE),--build-arg GO_IMAGE=$(GO_IMAGE)) \
	  --build-arg VERSION=$(VERSION) --build-arg COMMIT=$(COMMIT) $(IMAGE_FLAGS) -f $(2) -t $(3) .
endef

deploy: ## Write deploy/weir.yaml from the chart (HELM)
	HELM=$(HELM) deploy/make.sh

docs: ## Write the generated tables anew
	$(GO) test ./watchdog ./function ./cmd/weir -run TestDocs -update

clean: ## Remove what was built
	rm -rf bin
