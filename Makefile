# Redoubt's build. `make demo` and `make test` set up a fresh Debian machine by
# themselves (as root) and need nothing but Go on the PATH.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BINARIES := redoubt redoubt-node redoubtd redoubt-keyd redoubt-named redoubt-netd redoubt-proxy redoubt-rund redoubt-demoapp
INSTALLED := $(filter-out redoubt-demoapp,$(BINARIES))
BIN      ?= bin
VERSION  ?=
LDFLAGS  := -s -w $(if $(VERSION),-X github.com/redoubt-cluster/redoubt/internal/version.version=$(VERSION))
OUT      := $(CURDIR)/out
comma    := ,
APT      := containerd runc nftables iproute2 conntrack wireguard-tools containernetworking-plugins protobuf-compiler libprotobuf-dev openssl curl ca-certificates gcc libc6-dev systemd e2fsprogs swtpm swtpm-tools age tini
# Packages that link the container runtime's client: their race build alone
# takes minutes, and their concurrency is tested against the real runtime.
HEAVY    := /scheduler/rund|/cmd/redoubt-rund|/cmd/internal/(e2e|lab|cli|node)|/cmd/redoubt
export CGO_ENABLED ?= 0
# One way to compile: what is built is not compiled once more to be vetted or tested.
export GOFLAGS := -trimpath $(filter-out -trimpath,$(GOFLAGS))
# Stories that are told at a time, each with a lab of its own. Most of one is waiting.
# Go begins with those of the files that are last by name: what takes minutes is there.
STORIES  ?= 5

.PHONY: help
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  %-16s %s\n", $$1, $$2}'

# What the kernel's own WireGuard is tested with; busybox is also a DHCP server.
APT_KERNELVM := qemu-system-x86 busybox-static cpio kmod
# What reports are judged with.
APT_REPORTS := openscap-scanner chromium
# What a witness of others' has its key in, and is told of logs by.
APT_WITNESS := openssh-client sqlite3
$(OUT)/setup: packages := $(APT)
$(OUT)/setup-kernelvm: packages := $(APT_KERNELVM)
$(OUT)/setup-reports: packages := $(APT_REPORTS)
$(OUT)/setup-witness: packages := $(APT_WITNESS)
$(OUT)/setup $(OUT)/setup-kernelvm $(OUT)/setup-reports $(OUT)/setup-witness: Makefile
	@mkdir -p $(OUT)
	@missing=; for p in $(packages); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "missing Debian packages:$$missing; run as root, or apt-get install them" >&2; exit 1; }; \
	  echo "installing:$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >$(OUT)/apt.log 2>&1 \
	    || { tail -20 $(OUT)/apt.log >&2; exit 1; }; fi
	@touch $@

.PHONY: setup
setup: $(OUT)/setup ## install the Debian packages that building and testing need (root)
	@command -v go >/dev/null || { echo "Go is not on the PATH: install Go 1.26 or newer" >&2; exit 1; }

.PHONY: build
build: ## build every binary into BIN (bin)
	@mkdir -p $(BIN)
	go build -buildvcs=$(or $(VCS),auto) -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ $(addprefix ./cmd/,$(BINARIES))

.PHONY: man
man: ## the manual pages of every command, into BIN/man; install takes them from there
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) go run ./cmd/internal/manpages $(BIN)/man

PREFIX ?= /usr/local
LIB    := $(DESTDIR)$(PREFIX)/lib
SHARE  := $(DESTDIR)$(PREFIX)/share

.PHONY: install
install: ## what `make build` made, units, users, directories, completions and, where `make man` made them, manual pages, below DESTDIR (none) and PREFIX (/usr/local)
	@for b in $(INSTALLED); do [ -x $(BIN)/$$b ] || { echo "$(BIN)/$$b is not there: run make build first" >&2; exit 1; }; done
	install -D -m 0755 -t $(LIB)/redoubt $(addprefix $(BIN)/,$(filter-out redoubt,$(INSTALLED)))
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/bin $(BIN)/redoubt
	install -d $(LIB)/systemd/system
	@for u in deploy/systemd/*.service deploy/systemd/*.socket deploy/systemd/*.mount deploy/systemd/*.slice deploy/systemd/*.target; do \
	  to=$(LIB)/systemd/system/$${u##*/}; sed 's#/usr/lib/redoubt/#$(PREFIX)/lib/redoubt/#g' $$u >$$to; chmod 0644 $$to; echo $$to; done
	install -D -m 0644 deploy/systemd/drop-in/redoubt-rund-cni.conf $(SHARE)/redoubt/redoubt-rund-cni.conf
	install -D -m 0644 deploy/systemd/drop-in/redoubt-keyd-tpm.conf $(SHARE)/redoubt/redoubt-keyd-tpm.conf
	install -D -m 0644 deploy/systemd/redoubt.sysusers $(LIB)/sysusers.d/redoubt.conf
	install -D -m 0644 deploy/systemd/redoubt.tmpfiles $(LIB)/tmpfiles.d/redoubt.conf
	install -d $(SHARE)/bash-completion/completions $(SHARE)/zsh/site-functions $(SHARE)/fish/vendor_completions.d
	$(BIN)/redoubt completion bash >$(SHARE)/bash-completion/completions/redoubt
	$(BIN)/redoubt completion zsh >$(SHARE)/zsh/site-functions/_redoubt
	$(BIN)/redoubt completion fish >$(SHARE)/fish/vendor_completions.d/redoubt.fish
	@[ ! -d $(BIN)/man ] || install -D -m 0644 -t $(SHARE)/man/man1 $(BIN)/man/*.1

# What is released depends on the commit, the modules and Go alone: built anywhere of
# the same three, it has the same bytes (make reproducible).
RELEASE = $(OUT)/release
.PHONY: release
release: ## archive, SBOM (CycloneDX), provenance and digests of the commit that is checked out, below out/release; VERSION=x.y.z
	@[ -z "$$(git status --porcelain)" ] || { echo "the tree has changes that are not committed: a release is of a commit" >&2; exit 1; }
	@rm -rf $(OUT)/release.tree
	$(MAKE) build BIN=$(OUT)/release.tree/bin VERSION=$(or $(VERSION),0.0.0-$$(git rev-parse --short=12 HEAD)) VCS=true
	@$(MAKE) man BIN=$(OUT)/release.tree/bin
	@$(MAKE) install BIN=$(OUT)/release.tree/bin DESTDIR=$(OUT)/release.tree/root PREFIX=/usr >/dev/null
	@go run ./cmd/internal/release -tree $(OUT)/release.tree/root -out $(RELEASE) -version $(or $(VERSION),0.0.0-$$(git rev-parse --short=12 HEAD)) \
	  -commit $$(git rev-parse HEAD) -time $$(git log -1 --format=%ct)
	@rm -rf $(OUT)/release.tree

.PHONY: reproducible
reproducible: release ## releases the commit again, of another directory and with an empty build cache, and compares every byte
	@again=$$(mktemp -d); trap 'chmod -R u+w "$$again"; rm -rf "$$again"' EXIT; git clone -q --no-local . $$again/elsewhere; \
	GOCACHE=$$again/cache $(MAKE) -C $$again/elsewhere release VERSION=$(VERSION) >/dev/null; \
	diff -r $(RELEASE) $$again/elsewhere/out/release; echo "built twice, the same bytes"

# CycloneDX's own validator; the modules of its lock file, by their digests.
VALIDATOR := cmd/internal/release/validator
$(OUT)/validator/node_modules: $(VALIDATOR)/package-lock.json
	@command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null
	@mkdir -p $(OUT)/validator && cp $(VALIDATOR)/* $(OUT)/validator/
	cd $(OUT)/validator && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

.PHONY: sbom-valid
sbom-valid: release $(OUT)/validator/node_modules ## the release's bill of materials, judged by CycloneDX's validator
	@node $(OUT)/validator/validate.mjs $(RELEASE)/*.cdx.json

.PHONY: demo
demo: setup build ## a whole cluster on this machine: runs a service, loses a worker, locks and unlocks a manager
	bin/redoubt lab demo

# $(call stage,NAME,COMMAND) runs it and notes how long it took, whatever comes of it.
define stage
@echo "== $(1)"; begun=$$SECONDS; failed=; ( $(2) ) || failed=$$?; \
printf '%-32s %5d s%s\n' "$(1)" $$((SECONDS - begun)) "$${failed:+   FAILED}" >>$(OUT)/stages; \
[ -z "$$failed" ] || { echo "== how long each stage took"; cat $(OUT)/stages; exit $$failed; }
endef

# $(call tested,STAGE,FORMAT) is go test, which also notes what became of each test:
# the threat model is held against it. What Go remembers of another run did not run,
# so those who use this give -count=1.
tested = $(OUT)/tools/gotestsum --format $(2) --hide-summary skipped,output --jsonfile $(OUT)/ran/$(1).json --
$(OUT)/tools/gotestsum: go.mod
	@mkdir -p $(OUT)/tools
	CGO_ENABLED=0 go build -o $@ gotest.tools/gotestsum
	@touch $@

# The docker command, of a module of its own: what it needs is none of Redoubt's.
DOCKERCLI := cmd/internal/e2e/dockercli
$(OUT)/tools/docker: $(DOCKERCLI)/go.mod $(DOCKERCLI)/go.sum
	@mkdir -p $(OUT)/tools
	cd $(DOCKERCLI) && CGO_ENABLED=0 go build -mod=readonly -ldflags '-s -w -X github.com/docker/cli/cli/version.Version=28.5.2' -o $@ github.com/docker/cli/cmd/docker
	@touch $@

# Moby's own client library, and Prometheus's tool, of Debian's package without its daemon.
MOBYCLIENT := cmd/internal/e2e/mobyclient
$(OUT)/tools/mobyclient: $(MOBYCLIENT)/go.mod $(MOBYCLIENT)/go.sum $(MOBYCLIENT)/main.go
	@mkdir -p $(OUT)/tools
	cd $(MOBYCLIENT) && CGO_ENABLED=0 go build -mod=readonly -o $@ .
	@touch $@
$(OUT)/tools/promtool: $(OUT)/setup
	@mkdir -p $(OUT)/tools/prometheus
	cd $(OUT)/tools/prometheus && apt-get -o APT::Sandbox::User=root download -qq prometheus && dpkg-deb -x prometheus_*.deb . && mv usr/bin/promtool $@
	@rm -rf $(OUT)/tools/prometheus && touch $@

UNIT    = $$(go list ./... | grep -vE '($(HEAVY))(/|$$)')
RUNTIME = $$(go list ./... | grep -E '($(HEAVY))(/|$$)' | grep -v /e2e)

# Begun first, so that nobody waits for them in the end.
LONGEST = ./raftstore ./mesh/netd

# The stories wait more than they work: what the unit tests need is compiled
# beside them, and yields to them. A package is given minutes, not the time that
# all of them may take: what hangs fails soon, and its goroutines name it.
.PHONY: test
test: setup $(OUT)/tools/gotestsum ## every test: unit, property, and stories over a lab cluster; then the threat model (root)
	@rm -rf $(OUT)/stages $(OUT)/ran
	$(call stage,build,$(MAKE) build)
	$(call stage,threat model,$(MAKE) threatmodel)
	@$(MAKE) -j2 stories compile
	$(call stage,unit$(comma) race detector,CGO_ENABLED=1 $(call tested,unit,standard-quiet) -race -vet=off -count=1 -p 3 -timeout 6m $(LONGEST) $(UNIT))
	$(call stage,unit$(comma) container runtime,$(call tested,runtime,standard-quiet) -vet=off -count=1 -timeout 6m $(RUNTIME))
	@$(MAKE) test-fips
	$(call stage,threat model$(comma) tests that ran,$(MAKE) threatmodel RAN=$(OUT)/ran)
	@echo "== how long each stage took"; cat $(OUT)/stages

.PHONY: stories
stories: $(OUT)/tools/gotestsum $(OUT)/tools/docker ## the stories alone, of the binaries that make build made (root)
	@mkdir -p $(OUT)
	$(call stage,stories,REDOUBT_BIN=$(CURDIR)/bin REDOUBT_DOCKER=$(OUT)/tools/docker $(call tested,stories,standard-verbose) -vet=off -timeout 20m -parallel $(STORIES) -count=1 ./cmd/internal/e2e/...)

.PHONY: compile
compile:
	@mkdir -p $(OUT)
	$(call stage,vet$(comma) beside the stories,nice -n 19 go vet ./...)
	$(call stage,race compile$(comma) beside them,CGO_ENABLED=1 nice -n 19 go list -race -export -test $(UNIT) >/dev/null)

# What runs where calls outside of Go's FIPS 140-3 module fail (decision 94). Left out
# are tests of TPMs, the one of a process that is not in that mode, and those in the
# false time of testing/synctest: where time stands still, Go's source of entropy
# finds none, and panics.
FIPS      := ./pki/... ./autolock/... ./secrets/... ./scheduler/store ./scheduler/placement ./scheduler/agent/executor ./internal/daemon ./cmd/internal/control ./cmd/internal/node
FIPS_SKIP  = TPM|Attest|^TestFIPSIsNotPretended|$$(grep -rl --include='*_test.go' 'synctest\.Test(' $(patsubst ./%,%,$(FIPS:/...=)) | \
             xargs awk 'FNR==1 {n=""} /^func Test/ {n=$$2; sub(/\(.*/, "", n)} /synctest\.Test\(/ && n {print "^" n "$$"}' | sort -u | paste -sd"|")
.PHONY: test-fips
test-fips: $(OUT)/tools/gotestsum ## the packages of the control plane, kept to Go's FIPS 140-3 module
	@mkdir -p $(OUT)
	$(call stage,control plane in FIPS mode,$(call tested,fips,standard-quiet) -vet=off -count=1 -timeout 6m -exec 'env GODEBUG=fips140=only' -skip "$(FIPS_SKIP)" $(FIPS))

# Of the version whose interface redoubtd speaks, with the modules of its own: minutes
# of compiling, once.
$(OUT)/tools/step-ca: go.mod
	@mkdir -p $(OUT)/tools
	CGO_ENABLED=0 GOBIN=$(OUT)/tools go install github.com/smallstep/certificates/cmd/step-ca@$$(go list -m -f '{{.Version}}' github.com/smallstep/certificates)
	@touch $@

# A witness of others', the newest that this Go compiles, with the modules of its own.
TORCHWOOD = v0.9.0
$(OUT)/tools/litewitness: Makefile
	@mkdir -p $(OUT)/tools
	CGO_ENABLED=0 GOBIN=$(OUT)/tools go install filippo.io/torchwood/cmd/litewitness@$(TORCHWOOD)
	@touch $@

.PHONY: test-interop
test-interop: setup $(OUT)/setup-kernelvm $(OUT)/setup-reports $(OUT)/setup-witness $(OUT)/reports/node_modules build $(OUT)/tools/step-ca $(OUT)/tools/litewitness $(OUT)/tools/promtool $(OUT)/tools/mobyclient $(OUT)/tools/gotestsum ## the tier that needs outside tools beside the cluster
	go run ./cmd/internal/e2e/clockshift -bin bin -o out/shifted
	REDOUBT_BIN=$(CURDIR)/bin REDOUBT_SHIFTED_BIN=$(CURDIR)/out/shifted REDOUBT_STEP_CA=$(OUT)/tools/step-ca REDOUBT_WITNESS=$(OUT)/tools/litewitness REDOUBT_PROMTOOL=$(OUT)/tools/promtool REDOUBT_MOBY_CLIENT=$(OUT)/tools/mobyclient REDOUBT_REPORTS=$(OUT)/reports/node_modules $(call tested,interop,standard-verbose) -timeout 20m -count=1 -tags interop -run Interop ./cmd/internal/external ./threatmodel/report ./cmd/internal/e2e/...
	@$(MAKE) threatmodel RAN=$(OUT)/ran TIER=test-interop
	@$(MAKE) memory
	@$(MAKE) kernelvm
	@$(MAKE) sbom-valid reproducible

# Microsoft's validator of SARIF, and axe, by the digests of their lock file. No script
# of a package runs: what the validator's would do is the chmod.
REPORTS := threatmodel/report/validators
$(OUT)/reports/node_modules: $(REPORTS)/package-lock.json
	@command -v npm >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends npm >/dev/null
	@mkdir -p $(OUT)/reports && cp $(REPORTS)/* $(OUT)/reports/
	cd $(OUT)/reports && npm ci --ignore-scripts --no-audit --no-fund --silent && chmod u+x node_modules/@microsoft/sarif-multitool-linux/Sarif.Multitool
	@touch $@

# Alone it judges what stands in threats.yaml. RAN names where a run of TIER noted
# what became of its tests.
.PHONY: threatmodel
threatmodel: ## the threat model holds together and names tests that exist; make test adds that they passed
	go run ./cmd/internal/threatmodel $(if $(RAN),-ran $(RAN)) $(if $(TIER),-tier $(TIER))

.PHONY: generate-threatmodel
generate-threatmodel: ## docs/threat-model.md and docs/threat-model.otm.json, of threatmodel/threats.yaml
	go run ./cmd/internal/threatmodel -write

# Go calls what it is made with an experiment, so it is not the build of everything else.
.PHONY: memory
memory: setup ## a build that overwrites what libraries copied of keys leaves none of before in any daemon's memory (root)
	@GOEXPERIMENT=runtimesecret $(MAKE) build BIN=$(OUT)/overwriting
	REDOUBT_OVERWRITING=1 REDOUBT_BIN=$(OUT)/overwriting go test -vet=off -timeout 6m -count=1 -v -run '^TestKeysInMemory$$' ./cmd/internal/e2e

.PHONY: kernelvm
kernelvm: setup $(OUT)/setup-kernelvm ## netd's tests of the kernel's own WireGuard, in an emulated machine (root)
	cmd/internal/e2e/kernelvm/run.sh $(OUT)/kernelvm

.PHONY: race
race: setup ## every unit test under the race detector
	CGO_ENABLED=1 go test -race -timeout 30m $$(go list ./... | grep -v /e2e)

.PHONY: sim
sim: ## clusters simulated under faults: SEEDS (1000) of them; SEED=n repeats one
	REDOUBT_SIM_SEEDS=$${SEEDS:-1000} REDOUBT_SIM_SEED=$${SEED:-} go test -count=1 -v -timeout 12h -run '^TestSimulation(LosesTails)?$$' ./raftstore | grep -vE '^ *(---|===) (PASS|RUN|PAUSE|CONT|NAME)'

.PHONY: crash
crash: ## a real store killed CYCLES (1000) times, losing its power and bytes as often, with every kind of log
	REDOUBT_CRASH_CYCLES=$${CYCLES:-1000} go test -count=1 -v -timeout 12h -run '^Test(Crash|PowerLoss|FlippedByte)$$' ./raftstore

.PHONY: flips
flips: setup build ## a manager and a worker started with a flipped byte, FLIPS (100) of each file they keep (root)
	REDOUBT_FLIPS=$${FLIPS:-100} REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 12h -run '^TestFiles$$' ./cmd/internal/e2e/

.PHONY: nemesis
nemesis: setup build ## five real managers under faults for MINUTES (30), judged for linearizability (root)
	go run ./cmd/internal/e2e/clockshift -bin bin -o out/shifted
	REDOUBT_NEMESIS_MINUTES=$${MINUTES:-30} REDOUBT_SHIFTED_BIN=$(CURDIR)/out/shifted REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 12h -run '^TestNemesis$$' ./cmd/internal/e2e/

.PHONY: runtime-kills
runtime-kills: setup build ## containerd killed KILLS (100) times at random moments of starts and ends; OF=redoubt-rund kills rund, OF=hang stops containerd for a while; SEED=n (root)
	REDOUBT_RUNTIME_KILLS=$${KILLS:-100} REDOUBT_RUNTIME_KILLS_SEED=$${SEED:-} REDOUBT_RUNTIME_KILLS_OF=$${OF:-} REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 12h -run '^TestRuntimeKills$$' ./cmd/internal/e2e/

.PHONY: killmatrix
killmatrix: setup build ## daemons killed at random moments of every operation for MINUTES (30); SEED=n repeats a run's choices (root)
	REDOUBT_KILLMATRIX_MINUTES=$${MINUTES:-30} REDOUBT_KILLMATRIX_SEED=$${SEED:-} REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 12h -run '^TestKillPoints$$' ./cmd/internal/e2e/

.PHONY: stability
stability: setup build ## three managers under load on a machine without a core to spare keep their leader for MINUTES (10) (root)
	@mkdir -p out/bench
	@go build -o out/bench/redoubt ./cmd/internal/bench
	@out/bench/redoubt stability -seconds $$(( 60 * $${MINUTES:-10} )) -managers $(or $(MANAGERS),3) -clients $(or $(CLIENTS),16)

.PHONY: fuzz-short
fuzz-short: ## each fuzz target for FUZZTIME (10s)
	@for pkg in $$(go list ./...); do for f in $$(go test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	  echo "== $$pkg $$f"; go test -run '^$$' -fuzz "^$$f\$$" -fuzztime $${FUZZTIME:-10s} $$pkg; done; done

.PHONY: bench
bench: ## every benchmark once, with allocations
	go test -run '^$$' -bench . -benchmem $$(go list ./... | grep -v /e2e)

# What the peers need (half a gigabyte of modules, minutes of compiling) is built
# for these targets alone, and no part of `make test`. PEERS=1 adds the peers,
# measured in turn with Redoubt, to any of them.
COMPARE = out/bench/compare -peers=$(if $(PEERS),true,false) -rounds $(or $(ROUNDS),1) -managers $(or $(MANAGERS),3) -clients $(or $(CLIENTS),64) \
	-nodes $(or $(NODES),1000) -place $(or $(TASKS),100000) -tasks $(or $(TASKS),10000) -agents $(or $(AGENTS),100)

.PHONY: bench-build
bench-build: setup build
	@mkdir -p out/bench
	@go build -o out/bench/compare ./bench/compare
	@go build -o out/bench/redoubt ./cmd/internal/bench
	@go build -o out/bench/sim ./cmd/internal/sim
	@go test -c -o out/bench/place ./scheduler
	@$(if $(PEERS),for p in etcd swarmkit; do (cd bench/$$p && go build -o ../../out/bench/$$p .); done)

.PHONY: bench-store
bench-store: bench-build ## writes of 1 KiB a second, MANAGERS=3 CLIENTS=64 (root; PEERS=1: peers, too)
	@$(COMPARE) -only store

.PHONY: bench-reads
bench-reads: bench-build ## linearizable reads a second, MANAGERS=3 CLIENTS=64 (root; PEERS=1: peers, too)
	@$(COMPARE) -only reads

.PHONY: bench-failover
bench-failover: bench-build ## the leader is killed, or cut off → the next write (root; PEERS=1: peers, too)
	@$(COMPARE) -only failover,cut

.PHONY: bench-place
bench-place: bench-build ## place TASKS tasks of a service on NODES nodes, as the leader does (PEERS=1: peers, too)
	@$(COMPARE) -only place

.PHONY: bench-tasks
bench-tasks: bench-build ## TASKS tasks on AGENTS simulated nodes with real sessions (root; PEERS=1: peers, too)
	@$(COMPARE) -only tasks

.PHONY: bench-report
bench-report: bench-build ## compliance reports: a lab of five nodes with SERVICES=100, and NODES=500 simulated nodes, ROUNDS=5 each (root)
	REDOUBT_REPORT_SERVICES=$(or $(SERVICES),100) REDOUBT_REPORT_ROUNDS=$(or $(ROUNDS),5) REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 30m -run '^TestReportTimes$$' ./cmd/internal/e2e/
	out/bench/sim --bin bin --managers 3 --agents $(or $(NODES),500) --tasks $(or $(NODES),500) --rest 0 --reports $(or $(ROUNDS),5)

.PHONY: bench-stack
bench-stack: bench-build ## stack deploy, the same again and stack rm, on a lab of five nodes with SERVICES=30, ROUNDS=5 (root)
	REDOUBT_STACK_SERVICES=$(or $(SERVICES),30) REDOUBT_STACK_ROUNDS=$(or $(ROUNDS),5) REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 30m -run '^TestStackTimes$$' ./cmd/internal/e2e/

.PHONY: bench-rollout
bench-rollout: setup build ## an update of ten tasks behind the routing mesh while RATE=2000 requests a second come in, in either order (root)
	REDOUBT_ROLLOUT_RATE=$(or $(RATE),2000) REDOUBT_BIN=$(CURDIR)/bin go test -count=1 -v -timeout 10m -run '^TestRollout$$/^no_request_is_lost$$' ./cmd/internal/e2e/

.PHONY: bench-peers
bench-peers: PEERS := 1
bench-peers: bench-build ## all of these with all peers in one run, ROUNDS=5 each; the log is out/bench/peers.log (root)
	@$(COMPARE) -rounds $(or $(ROUNDS),5) -log out/bench/peers.log

.PHONY: lint
lint: ## gofmt, vet, staticcheck
	@bad=$$(gofmt -l $$(git ls-files '*.go' | grep -v '\.pb\.go$$')); [ -z "$$bad" ] || { echo "not gofmt-ed: $$bad" >&2; exit 1; }
	go vet ./...
	go tool staticcheck ./...

.PHONY: vuln
vuln: ## known vulnerabilities in what is linked; says so where the database cannot be reached
	@log=$$(mktemp); if go tool govulncheck ./... >$$log 2>&1; then cat $$log; \
	elif grep -qE 'fetching vulnerabilities|dial tcp|no such host|Forbidden|HTTP (GET|status)' $$log; then echo "not checked: the vulnerability database cannot be reached"; \
	else cat $$log >&2; exit 1; fi

.PHONY: generate
generate: setup ## the Go code of every .proto
	@mkdir -p $(OUT)/tools
	go build -o $(OUT)/tools/ google.golang.org/protobuf/cmd/protoc-gen-go google.golang.org/grpc/cmd/protoc-gen-go-grpc
	PATH=$(OUT)/tools:$$PATH protoc -I. --go_out=. --go_opt=paths=source_relative \
	  --go-grpc_out=. --go-grpc_opt=paths=source_relative $$(git ls-files '*.proto')

.PHONY: generate-check
generate-check: generate ## fails where generated code is stale
	@git diff --exit-code --stat -- '*.pb.go' || { echo "generated code is stale: run make generate and commit it" >&2; exit 1; }

.PHONY: check
check: lint generate-check test ## what a change must pass before it is sent

.PHONY: clean
clean: ## remove what was built
	rm -rf bin out
