# Faultline. `make help` lists the targets.
SHELL := /bin/bash
GO ?= go
COMMIT := $(shell git describe --always --dirty --abbrev=12 2>/dev/null || echo unknown)
LDFLAGS := -X github.com/faultline-mq/faultline/harness.Commit=$(COMMIT)
FAULTLINE := bin/faultline
RUN := $(FAULTLINE) run --system reference --scheme isr --workload log --env auto
SEED ?= 1
# The race detector needs a C compiler.
RACE := $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race,)

.DEFAULT_GOAL := help
.PHONY: help build build-mutants test test-docker test-faults test-checkers test-matrix test-matrix-docker nightly lint determinism bench fuzz images test-partition test-kill test-pause verify mutants test-mutants-docker clean test-kafka test-nats side-by-side test-matrix-systems test-systems test-rabbitmq test-example

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-20s %s\n", $$1, $$2}'

build: ## build bin/faultline and bin/faultbroker
	@mkdir -p bin
	@$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/faultline ./cmd/faultbroker

# Below the driver a state machine has no goroutine, which a test holds them to: they
# are tested without the race detector. So are simulations and comparisons of one goroutine
# in other packages, which skip themselves with it; that build has the seeded bugs, all off
# but where a test asks for one. Collecting garbage less often halves the time of these
# tests; three packages at a time, as some wait for Docker.
MACHINES = ./broker ./broker/batch ./broker/cluster ./broker/kafka ./broker/logindex ./broker/node ./broker/options ./broker/peers ./broker/scheme/... ./broker/wire
PLAIN = $(if $(RACE),./harness ./cmd/faultline ./checker ./checker/linear ./checker/history ./harness/report $(MACHINES) ./broker/mutant,./harness ./broker/mutant)
RACING = $(if $(RACE),$(filter-out $(shell $(GO) list $(MACHINES)),$(shell $(GO) list ./...)),./...)
TEST = $(GO) test -exec 'env GOGC=400 GOMEMLIMIT=3GiB' -timeout 20m
test: ## all tests, with the race detector where there are goroutines; Docker tests skip where there is no Docker, unless CI=true
	@[ -n "$(RACE)" ] || echo "no C compiler here: testing without the race detector"
	$(TEST) $(RACE) -p 3 ./harness $(RACING) # the longest first
	$(TEST) -tags mutants -skip '^TestDocker|^TestExternal|^TestDiagnose$$' $(PLAIN)

test-docker: ## every test that needs Docker, the long ones too
	FAULTLINE_DOCKER_TESTS=all CI=true $(GO) test $(RACE) -count=1 -p 1 -timeout 60m ./harness/... ./cmd/faultline/...

test-faults: ## every fault and scenario in Docker: faults proven and healed, and not proven where they are stubbed
	FAULTLINE_DOCKER_TESTS=all CI=true $(GO) test -count=1 -p 1 -timeout 60m -v -run 'TestDocker(Faults|MembersAndClocks|Stubbed|UpgradeStubbed|Sabotage|Power|CorruptFile|Scenarios)|TestDiskFaults|TestPacketFaults|TestLimitFaults|TestNewNodes|TestSabotage|TestKilledHarness' ./harness ./harness/environment/docker

test-checkers: ## bugs seeded into the checkers, one after another: their tests must find each
	FAULTLINE_CHECKER_BUGS=1 $(GO) test -count=1 -timeout 60m -run 'TestBugs$$' ./checker ./checker/linear

test-matrix: build ## every claim about a scheme in the simulator, and results/matrix.html
	@$(FAULTLINE) matrix --env sim

test-matrix-docker: build ## claims about each scheme in Docker, in less than an hour, and results/docker/matrix.html
	@$(FAULTLINE) matrix --env docker --out results/docker

SHARD ?= 1/1
NIGHTLY_SEEDS ?= 20
nightly: build ## every claim in the simulator and in Docker; SHARD=2/4 takes the second of four parts
	@sim=0; $(FAULTLINE) matrix --env sim --shard $(SHARD) --seeds $(NIGHTLY_SEEDS) --tries 40 --out results/nightly/sim || sim=$$?; \
	docker=0; $(FAULTLINE) matrix --env docker --all --shard $(SHARD) --out results/nightly/docker || docker=$$?; \
	if [ $$sim = 1 ] || [ $$docker = 1 ]; then exit 1; fi; exit $$((sim > docker ? sim : docker))

lint: ## gofumpt, vet, staticcheck, actionlint
	@out=$$($(GO) tool gofumpt -l .); if [ -n "$$out" ]; then echo "not gofumpt'ed:"; echo "$$out"; exit 1; fi
	$(GO) vet ./... && $(GO) vet -tags mutants ./...
	$(GO) tool staticcheck ./... && $(GO) tool staticcheck -tags mutants ./...
	$(GO) tool actionlint

determinism: ## 200 seeds of the simulator in two processes with different GOMAXPROCS: all digests must be equal
	FAULTLINE_DETERMINISM_SEEDS=200 $(GO) test -count=1 -timeout 60m -run 'TestDeterminism$$' ./harness

bench: ## benchmarks
	$(GO) test -run '^$$' -bench . -benchmem ./...

FUZZTIME ?= 30s
fuzz: ## every fuzz test, FUZZTIME (30s) each
	@set -e; for pkg in $$($(GO) list ./...); do for f in $$($(GO) test -list '^Fuzz' $$pkg | grep ^Fuzz); do \
		echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; done; done

images: build ## build the node image of this source
	@$(FAULTLINE) images

test-partition: build ## the main job: five partitions on a three-node cluster, a verdict and a report
	@$(RUN) --faults partition --nodes 3 --clients 6 --time 96s --seed $(SEED)

test-kill: build ## the same with killed nodes
	@$(RUN) --faults kill --nodes 3 --clients 6 --time 80s --seed $(SEED)

test-pause: build ## the same with paused nodes
	@$(RUN) --faults pause --nodes 3 --clients 6 --time 80s --seed $(SEED)

test-kafka: ## clusters that speak Kafka's protocol, tried on our own broker: by image, by addresses, and with commands of one's own as faults
	FAULTLINE_DOCKER_TESTS=all CI=true $(GO) test -count=1 -p 1 -timeout 40m -v -run 'TestDockerKafka|TestDockerExec|TestExternal|TestKafkaPromises|TestDistributions' ./harness

test-example: ## the system of docs/systems/adding.md: its safe configuration is valid, its unsafe ones are convicted
	FAULTLINE_DOCKER_TESTS=all CI=true $(GO) test -count=1 -timeout 20m -v -run 'TestExampleInDocker' ./harness

RABBITMQ := $(FAULTLINE) run --plan docs/systems/rabbitmq-partition.yaml
test-rabbitmq: build ## RabbitMQ: a partition and a restart take acknowledged messages from mirrored queues, and none from quorum queues
	@$(RABBITMQ) --scheme mirrored; [ $$? = 1 ] && grep -q '"lost": *[1-9]' results/latest/summary.json || { echo "test-rabbitmq: expected mirrored queues to lose acknowledged messages"; exit 1; }
	@$(RABBITMQ) --scheme quorum

NATS := $(FAULTLINE) run --system nats --env docker --nodes 3 --clients 6 --seed $(SEED)
test-nats: build ## NATS JetStream R3: killed nodes take nothing; lost power does by default, and not with sync_interval=always
	$(NATS) --workload queue --faults kill --time 90s
	$(NATS) --workload log --faults power --targets all --time 70s; \
		[ $$? = 1 ] && grep -q '"lost": *[1-9]' results/latest/summary.json || { echo "test-nats: expected the loss of power to take acknowledged messages"; exit 1; }
	$(NATS) --workload log --faults power --targets all --time 70s --set sync_interval=always

side-by-side: build ## five replicated queues of three systems under one plan: docs/side-by-side.md
	@$(FAULTLINE) compare docs/side-by-side.yaml --env docker --markdown docs/side-by-side.md

test-matrix-systems: build ## every claim about RabbitMQ and NATS on these themselves, and results/systems/matrix.html
	@$(FAULTLINE) matrix --env docker --system rabbitmq,nats --out results/systems

test-systems: test-rabbitmq test-nats test-kafka test-example test-matrix-systems ## everything that runs on other systems

verify: build ## 20 seeds of 30 s in Docker, all valid; an interrupted one goes on where it stopped
	@$(FAULTLINE) verify --seeds 20 --env docker --time 30s --clients 12 --rate 100 --set request.timeout.ms=500

build-mutants: ## build bin/faultline-mutants, with bugs that are seeded on purpose
	@mkdir -p bin
	@$(GO) build -tags mutants -trimpath -ldflags '$(LDFLAGS)' -o bin/faultline-mutants ./cmd/faultline

mutants: build-mutants ## hunt every seeded bug in the simulator, on three ranges of seeds, and a control
	@bin/faultline-mutants mutants

test-mutants-docker: ## the plans that convict seeded bugs, in Docker: with the bug invalid, without it valid
	FAULTLINE_DOCKER_TESTS=all CI=true $(GO) test -tags mutants -count=1 -timeout 60m -run 'TestDocker(Convictions|Shrunk)' ./harness

clean: build ## remove what killed runs left in Docker, and the binaries
	@$(FAULTLINE) clean --kept || true
	@rm -rf bin
