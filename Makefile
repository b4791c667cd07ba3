# quern: build, test, install.  `make help` lists the targets.

.DEFAULT_GOAL := all
SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules

VERSION := 0.1.0
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
SBINDIR ?= $(PREFIX)/sbin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share/quern
MANDIR ?= $(PREFIX)/share/man
BASHCOMPDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHCOMPDIR ?= $(PREFIX)/share/zsh/site-functions
FISHCOMPDIR ?= $(PREFIX)/share/fish/vendor_completions.d
LIBEXECDIR ?= $(PREFIX)/libexec/quern
SYSCONFDIR ?= /etc
UNITDIR ?= $(PREFIX)/lib/systemd/system
USERUNITDIR ?= $(PREFIX)/lib/systemd/user
# Units are written for a version of systemd: this machine's, where nothing is said.
SYSTEMD_VERSION ?= $(shell pkg-config --modversion libsystemd 2>/dev/null || echo 252)
INSTALL_UNIT = sh systemd/install-unit.sh "$(SYSTEMD_VERSION)"
UNIT_VALUES = SBINDIR=$(SBINDIR) LIBEXECDIR=$(LIBEXECDIR) DATADIR=$(DATADIR)

ifeq ($(origin CC),default)
CC := gcc
endif

# One build folder for each way of building: BUILD=build is the plain one, `make asan` and
# `make tsan` come back here with SAN set and a folder of their own.
BUILD ?= build
SAN ?=
V ?= 0
Q := $(if $(filter 1,$(V)),,@)

PACKAGES := gcc make pkg-config libc6-dev liburing-dev libhugetlbfs-dev libhugetlbfs-bin \
            libjemalloc-dev libsystemd-dev libmicrohttpd-dev libcmocka-dev libjansson-dev libinih-dev \
            libedit-dev libncurses-dev libcurl4-openssl-dev nettle-dev libnuma-dev libxxhash-dev libutf8proc-dev spin systemd dbus python3 python3-prometheus-client

# What tests of packages and pages need besides, and building packages.
PACKAGES_CHECK := tmux mandoc debhelper fakeroot clang-14 libclang-rt-14-dev python3-pip python3-setuptools \
                  python3-wheel
PACKAGES_VM := qemu-system-x86 busybox-static e2fsprogs libpam-systemd
PACKAGES_BENCH := fio
PACKAGES_DEB := debhelper fakeroot lintian dpkg-dev debootstrap

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla
OPT ?= -O2 -g
# The bits of every float result are fixed by the code: contraction only where `fma` is written.
CFLAGS_ALL := -std=gnu11 $(OPT) $(WARN) -ffp-contract=off -fno-math-errno -fvisibility=hidden \
              -pthread -fPIC -I. -DQUERN_VERSION='"$(VERSION)"' $(CFLAGS)
LDFLAGS_ALL := -pthread $(LDFLAGS)
LIBS_CORE := -luring -lhugetlbfs -lsystemd -lmicrohttpd -linih -lutf8proc -lnuma -lxxhash -ljansson -lm
JEMALLOC := -ljemalloc

ifneq ($(SAN),)
CFLAGS_ALL += -fsanitize=$(SAN) -fno-omit-frame-pointer -fno-sanitize-recover=all -DQUERN_SANITIZE=1
LDFLAGS_ALL += -fsanitize=$(SAN)
JEMALLOC :=
endif

# ---- sources: a new file in a folder needs no line here ------------------------------------
SRC_IPC := $(wildcard ipc/*.c)
SRC_CHAT := $(wildcard chat/*.c)
SRC_OPS := $(wildcard ops/*.c ops/arch/*.c)
SRC_MM := $(wildcard mm/*.c)
SRC_SVC := $(filter-out svc/main.c,$(wildcard svc/*.c svc/model/*.c svc/text/*.c svc/cmd/*.c))
SRC_LIB := $(wildcard client/lib/*.c) $(SRC_IPC)
SRC_CLI := $(wildcard client/cli/*.c)
TESTS_UNIT := $(patsubst tests/unit/%.c,$(BUILD)/tests/unit/%,$(wildcard tests/unit/*_test.c))
TESTS_INTEGRATION_C := $(patsubst tests/integration/%.c,$(BUILD)/tests/integration/%,\
                         $(wildcard tests/integration/*_test.c))
TESTS_INTEGRATION_SH := $(wildcard tests/integration/*_test.sh tests/systemd/*_test.sh \
                          tests/emulator/*_test.sh)
TESTS_STRESS := $(patsubst tests/stress/%.c,$(BUILD)/tests/stress/%,$(wildcard tests/stress/*_test.c))
TESTS_TOY := $(patsubst tests/emulator/%.c,$(BUILD)/tests/emulator/%,$(wildcard tests/emulator/*_toy.c))
TEST_SUPPORT := $(patsubst %.c,$(BUILD)/%.o,$(wildcard tests/support/*.c))
TOOLS := $(patsubst tests/tools/%.c,$(BUILD)/tests/tools/%,$(wildcard tests/tools/*.c))
BENCHES := $(patsubst tests/bench/%.c,$(BUILD)/tests/bench/%,$(wildcard tests/bench/*.c))
FUZZERS := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/*_fuzz.c))

obj = $(patsubst %.c,$(BUILD)/%.o,$(1))
OBJ_CORE := $(call obj,$(SRC_SVC) $(SRC_MM) $(SRC_OPS) $(SRC_IPC) $(SRC_CHAT))
OBJ_LIB := $(call obj,$(SRC_LIB))
OBJ_CLI := $(call obj,$(SRC_CLI) $(SRC_CHAT))

# What is no kernel and no test is fortified in every build, not in packages alone: warnings come with it,
# which end a build, and a sanitizer's looks are its own.
ifeq ($(SAN)$(filter -O0,$(OPT)),)
$(BUILD)/svc/%.o $(BUILD)/mm/%.o $(BUILD)/ipc/%.o $(BUILD)/chat/%.o $(BUILD)/client/%.o: \
    FORTIFY := -D_FORTIFY_SOURCE=2 -Wdate-time
endif

# ---- instruction sets: the file name says which; chosen at run time, never -march=native ----
ISA_AVX2 := -mavx2 -mfma -mf16c
ISA_AVX512 := $(ISA_AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
$(BUILD)/ops/arch/%_avx2.o: ISA := $(ISA_AVX2)
$(BUILD)/ops/arch/%_avx512.o: ISA := $(ISA_AVX512)
$(BUILD)/ops/arch/%_avx512vnni.o: ISA := $(ISA_AVX512) -mavx512vnni
$(BUILD)/ops/arch/%_amx.o: ISA := $(ISA_AVX512) -mavx512vnni -mamx-tile -mamx-int8
$(BUILD)/ops/arch/%.o: OPT := -O3 -g

.PHONY: help deps all run check check-vm check-deb check-twice quick asan tsan fuzz bench bench-ring model-check bits emulate install uninstall format clean model needle tests

help: ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

deps: ## install the Debian packages that are missing (asks for root only then)
	$(Q)missing=; for p in $(PACKAGES); do \
	    dpkg-query -W -f '$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || missing="$$missing $$p"; \
	done; [ -z "$$missing" ] && exit 0; \
	echo "deps: installing$$missing"; \
	if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; \
	    command -v sudo >/dev/null || { echo "deps: run 'make deps' as root once: missing$$missing" >&2; exit 1; }; fi; \
	$$sudo apt-get update -qq && \
	$$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null

all: $(BUILD)/quernd $(BUILD)/quern $(BUILD)/libquern.a $(BUILD)/libquern.so $(BUILD)/quern.pc ## build the service, the tool and the library

run: deps ## build, start the service with the shipped model, stream an answer (PROMPT=...)
	$(Q)$(MAKE) --no-print-directory -j$$(nproc) all $(if $(wildcard models/quern-tldr.gguf),,tools)
	$(Q)BUILD="$(BUILD)" sh client/demo.sh

tests: all tools $(TESTS_UNIT) $(TESTS_INTEGRATION_C) $(TESTS_STRESS) $(TESTS_TOY)
tools: $(TOOLS)

check: PACKAGES += $(PACKAGES_CHECK)
check: deps ## set up, build and pass every test
	$(Q)$(MAKE) --no-print-directory -j$$(nproc) tests
	$(Q)BUILD="$(BUILD)" sh tests/run.sh $(TESTS_UNIT) $(TESTS_INTEGRATION_C) $(TESTS_STRESS) $(TESTS_INTEGRATION_SH)

quick: ## the unit tests alone
	$(Q)$(MAKE) --no-print-directory -j$$(nproc) $(TESTS_UNIT) tools
	$(Q)BUILD="$(BUILD)" sh tests/run.sh $(TESTS_UNIT)

asan: ## the tests under AddressSanitizer and UBSan
	$(Q)TEST_TIMEOUT_S=1200 $(MAKE) --no-print-directory check BUILD=build/asan SAN=address,undefined OPT="-O1 -g"

tsan: ## the tests under ThreadSanitizer
	$(Q)TEST_TIMEOUT_S=1200 $(MAKE) --no-print-directory check BUILD=build/tsan SAN=thread OPT="-O1 -g"

fuzz: ## run every fuzzer for FUZZ_SECONDS (60) each; needs clang
	$(Q)$(MAKE) --no-print-directory fuzzers CC=clang BUILD=build/fuzz SAN=address,undefined OPT="-O1 -g"
	$(Q)BUILD=build/fuzz sh tests/fuzz/run.sh

fuzzers: $(FUZZERS)

bench: PACKAGES += $(PACKAGES_BENCH)
bench: deps ## measure against the machine's bounds and, where PEER is set, llama.cpp
	$(Q)$(MAKE) --no-print-directory all tools $(BENCHES)
	$(Q)BUILD="$(BUILD)" sh tests/bench/run.sh
	$(Q)$(BUILD)/tests/bench/matmul_bench
	$(Q)$(BUILD)/tests/bench/attention_bench
	$(Q)for m in $${BENCH_START:-$(BUILD)/bench/0.5b-q8_0.gguf}; do \
	    BUILD="$(BUILD)" python3 tests/bench/start.py $$m || exit; done

bench-ring: $(BUILD)/tests/bench/ring_bench ## measure the ring: two cores, one core, unpinned
	$(Q)$< 0 1 && $< 0 0 && $<

model-check: deps ## check the ring's protocol model at larger sizes (minutes, up to 8 GB)
	$(Q)sh tests/spin/run.sh deep

bits: tools $(BUILD)/tests/unit/same_bits_test ## every combination of BITS ("q4_k", default all: hours) gives the same bits
	$(Q)BUILD="$(BUILD)" QUERN_BITS="$${BITS:-all}" $(BUILD)/tests/unit/same_bits_test

emulate: ## run the AVX-512 tests under Bochs, also where the processor has AVX-512
	$(Q)$(MAKE) --no-print-directory tests
	$(Q)BUILD="$(BUILD)" EMULATE=1 sh tests/emulator/avx512_test.sh

needle: deps ## a map of the needles that a model finds in long contexts (MODEL=FILE)
	$(Q)$(MAKE) --no-print-directory all
	$(Q)BUILD="$(BUILD)" sh tests/needle/run.sh

model: ## train the shipped model again from its data (hours)
	$(Q)sh models/train/train.sh

# ---- what is built ------------------------------------------------------------------------
$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(if $(filter 1,$(V)),,@echo "  CC    $<")
	$(Q)$(CC) $(CFLAGS_ALL) $(FORTIFY) $(ISA) -MMD -MP -c -o $@ $<

$(BUILD)/libcore.a: $(OBJ_CORE)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/quernd: $(BUILD)/svc/main.o $(BUILD)/libcore.a
	$(if $(filter 1,$(V)),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ $(LIBS_CORE) $(JEMALLOC)

$(BUILD)/libquern.a: $(OBJ_LIB)
	$(Q)rm -f $@ && ar rcs $@ $^

$(BUILD)/libquern.so: $(OBJ_LIB) client/lib/libquern.map
	$(if $(filter 1,$(V)),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS_ALL) -shared -Wl,-soname,libquern.so.0 -Wl,--version-script=client/lib/libquern.map \
	    -o $@.0 $(OBJ_LIB) && ln -sf libquern.so.0 $@

$(BUILD)/quern: $(OBJ_CLI) $(BUILD)/libquern.a
	$(if $(filter 1,$(V)),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $^ -ljansson -lxxhash -ledit -lncursesw -ltinfo -lcurl -lnettle -lm

$(BUILD)/quern.pc: client/lib/quern.pc.in Makefile
	@mkdir -p $(@D)
	$(Q)sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
	    -e 's|@VERSION@|$(VERSION)|' $< >$@

# Test programs may use both sides of the ring: core and the client library.
$(BUILD)/tests/%: $(BUILD)/tests/%.o $(TEST_SUPPORT) $(BUILD)/libcore.a $(BUILD)/libquern.a
	@mkdir -p $(@D)
	$(if $(filter 1,$(V)),,@echo "  LD    $@")
	$(Q)$(CC) $(LDFLAGS_ALL) -o $@ $< $(TEST_SUPPORT) $(BUILD)/libquern.a $(BUILD)/libcore.a -lcmocka $(LIBS_CORE)

$(BUILD)/fuzz/%: tests/fuzz/%.c $(OBJ_CORE) $(OBJ_LIB)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS_ALL) $(LDFLAGS_ALL) -fsanitize=fuzzer -o $@ $< $(sort $(OBJ_CORE) $(OBJ_LIB)) $(LIBS_CORE)

ifneq ($(filter fuzzers,$(MAKECMDGOALS)),)
CFLAGS_ALL += -fsanitize=fuzzer-no-link
endif

install: all ## install under PREFIX (DESTDIR honoured; settings in /etc are kept)
	install -d "$(DESTDIR)$(SBINDIR)" "$(DESTDIR)$(BINDIR)" "$(DESTDIR)$(LIBDIR)/pkgconfig" \
	    "$(DESTDIR)$(INCLUDEDIR)" "$(DESTDIR)$(DATADIR)" "$(DESTDIR)$(LIBEXECDIR)" "$(DESTDIR)$(UNITDIR)" \
	    "$(DESTDIR)$(USERUNITDIR)" "$(DESTDIR)$(SYSCONFDIR)/quern/quern.conf.d" \
	    "$(DESTDIR)$(SYSCONFDIR)/default" "$(DESTDIR)$(PREFIX)/lib/sysusers.d" "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d" \
	    "$(DESTDIR)$(PREFIX)/lib/systemd/catalog"
	install -m755 $(BUILD)/quernd "$(DESTDIR)$(SBINDIR)/quernd"
	install -m755 $(BUILD)/quern "$(DESTDIR)$(BINDIR)/quern"
	install -m644 $(BUILD)/libquern.a "$(DESTDIR)$(LIBDIR)/libquern.a"
	install -m755 $(BUILD)/libquern.so.0 "$(DESTDIR)$(LIBDIR)/libquern.so.0"
	ln -sf libquern.so.0 "$(DESTDIR)$(LIBDIR)/libquern.so"
	install -m644 client/quern.h "$(DESTDIR)$(INCLUDEDIR)/quern.h"
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR)|' -e 's|@INCLUDEDIR@|$(INCLUDEDIR)|' \
	    -e 's|@VERSION@|$(VERSION)|' client/lib/quern.pc.in >"$(DESTDIR)$(LIBDIR)/pkgconfig/quern.pc"
	for m in models/*.gguf; do [ ! -e "$$m" ] || install -m644 "$$m" "$(DESTDIR)$(DATADIR)/"; done
	for u in systemd/*.service systemd/*.socket; do \
	    $(INSTALL_UNIT) "$$u" "$(DESTDIR)$(UNITDIR)/$${u##*/}" $(UNIT_VALUES) || exit; done
	for u in systemd/user/*; do $(INSTALL_UNIT) "$$u" "$(DESTDIR)$(USERUNITDIR)/$${u##*/}" $(UNIT_VALUES) || exit; done
	sh docs/man/install.sh "$(DESTDIR)$(MANDIR)"
	install -d "$(DESTDIR)$(BASHCOMPDIR)" "$(DESTDIR)$(ZSHCOMPDIR)" "$(DESTDIR)$(FISHCOMPDIR)"
	for p in quern quernd; do \
	    install -m644 client/completions/$$p.bash "$(DESTDIR)$(BASHCOMPDIR)/$$p" && \
	    install -m644 client/completions/_$$p "$(DESTDIR)$(ZSHCOMPDIR)/_$$p" && \
	    install -m644 client/completions/$$p.fish "$(DESTDIR)$(FISHCOMPDIR)/$$p.fish" || exit; done
	install -m644 systemd/grafana-dashboard.json "$(DESTDIR)$(DATADIR)/grafana-dashboard.json"
	install -m755 systemd/huge-pages.sh "$(DESTDIR)$(LIBEXECDIR)/huge-pages"
	install -m644 systemd/quern.sysusers "$(DESTDIR)$(PREFIX)/lib/sysusers.d/quern.conf"
	install -m644 systemd/quern.catalog "$(DESTDIR)$(PREFIX)/lib/systemd/catalog/quern.catalog"
	install -m644 systemd/quern.tmpfiles "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/quern.conf"
	c="$(DESTDIR)$(SYSCONFDIR)/quern/quern.conf"; [ -e "$$c" ] || sed 's|@DATADIR@|$(DATADIR)|' systemd/quern.conf >"$$c"
	c="$(DESTDIR)$(SYSCONFDIR)/default/quern"; [ -e "$$c" ] || install -m644 systemd/quern.default "$$c"
	@[ -n "$(DESTDIR)" ] || [ ! -d /run/systemd/system ] || echo "now: systemd-sysusers && systemd-tmpfiles --create && journalctl --update-catalog && systemctl daemon-reload && systemctl enable --now quern.socket"

uninstall: ## remove what install put there (settings in /etc stay)
	rm -f "$(DESTDIR)$(SBINDIR)/quernd" "$(DESTDIR)$(BINDIR)/quern" "$(DESTDIR)$(LIBDIR)"/libquern.* \
	    "$(DESTDIR)$(INCLUDEDIR)/quern.h" "$(DESTDIR)$(LIBDIR)/pkgconfig/quern.pc" \
	    "$(DESTDIR)$(UNITDIR)"/quern*.service "$(DESTDIR)$(UNITDIR)"/quern*.socket \
	    "$(DESTDIR)$(USERUNITDIR)"/quern.service "$(DESTDIR)$(USERUNITDIR)"/quern.socket \
	    "$(DESTDIR)$(PREFIX)/lib/sysusers.d/quern.conf" "$(DESTDIR)$(PREFIX)/lib/tmpfiles.d/quern.conf" \
	    "$(DESTDIR)$(PREFIX)/lib/systemd/catalog/quern.catalog"
	rm -rf "$(DESTDIR)$(DATADIR)" "$(DESTDIR)$(LIBEXECDIR)"
	rm -f "$(DESTDIR)$(MANDIR)"/man1/quern.1 "$(DESTDIR)$(MANDIR)"/man3/libquern.3 "$(DESTDIR)$(MANDIR)"/man3/quern_*.3 \
	    "$(DESTDIR)$(MANDIR)"/man5/quern.conf.5 "$(DESTDIR)$(MANDIR)"/man7/quern-protocol.7 "$(DESTDIR)$(MANDIR)"/man8/quernd.8
	rm -f "$(DESTDIR)$(BASHCOMPDIR)"/quern "$(DESTDIR)$(BASHCOMPDIR)"/quernd "$(DESTDIR)$(ZSHCOMPDIR)"/_quern \
	    "$(DESTDIR)$(ZSHCOMPDIR)"/_quernd "$(DESTDIR)$(FISHCOMPDIR)"/quern.fish "$(DESTDIR)$(FISHCOMPDIR)"/quernd.fish

tarball: ## the sources as build/quern-VERSION.tar.gz, the same bytes each time
	$(Q)mkdir -p $(BUILD)
	$(Q)sh debian/tarball.sh quern-$(VERSION) "$(BUILD)/quern-$(VERSION).tar.gz"
	$(Q)echo "$(BUILD)/quern-$(VERSION).tar.gz"

deb: PACKAGES += $(PACKAGES_DEB)
deb: deps tarball ## Debian packages in build/deb (MAINTAINER="Name <address>"): quern, libquern0, libquern-dev
	$(Q)rm -rf "$(BUILD)/deb" && mkdir -p "$(BUILD)/deb"
	$(Q)tar -xf "$(BUILD)/quern-$(VERSION).tar.gz" -C "$(BUILD)/deb"
	$(Q)[ -z "$(MAINTAINER)" ] || sh "$(BUILD)/deb/quern-$(VERSION)/debian/maintainer.sh" "$(MAINTAINER)"
	$(Q)cd "$(BUILD)/deb/quern-$(VERSION)" && env -u BUILD -u MAKEFLAGS -u MAKELEVEL \
	    dpkg-buildpackage -b -us -uc -j$$(nproc) >../log 2>&1 || { tail -n 40 ../log; exit 1; }
	$(Q)rm -rf "$(BUILD)/deb/quern-$(VERSION)"
	$(Q)ls "$(BUILD)"/deb/*.deb

check-twice: deb ## build the packages a second time, elsewhere: the same bytes
	$(Q)MAINTAINER="$(MAINTAINER)" sh debian/twice.sh "$(BUILD)/quern-$(VERSION).tar.gz" "$(BUILD)/deb"

check-vm: PACKAGES += $(PACKAGES_VM)
check-vm: deps ## suspend, limits of memory and processors, a user's service: in a virtual machine (minutes, root)
	$(Q)$(MAKE) --no-print-directory -j$$(nproc) all tools
	$(Q)BUILD="$(BUILD)" sh tests/systemd/vm.sh

check-deb: deb ## build the packages, lint them; install, upgrade, remove, purge in a clean Debian
	$(Q)lintian --fail-on error "$(BUILD)"/deb/*.changes
	$(Q)sh tests/systemd/clean-root.sh build-root "$(BUILD)/deb" >"$(BUILD)/clean-root.log" 2>&1 || \
	    { tail -n 20 "$(BUILD)/clean-root.log"; exit 1; }
	$(Q)BUILD="$(BUILD)" PACKAGES="$(BUILD)/deb" CONTAINER_LOWER="$(CURDIR)/build-root" sh tests/systemd/deb_test.sh

format: ## clang-format every C file
	$(Q)git ls-files '*.c' '*.h' | xargs clang-format -i

clean: ## remove everything built
	rm -rf build build-root

# Objects made on the way to a program stay: the next build needs them again.
.SECONDARY:

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
