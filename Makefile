# tlsplice: `make help` lists what can be made.
# Everything built goes under $(BUILD); sources are found by wildcard, so a new file needs no line here.
# SPDX-License-Identifier: Apache-2.0

VERSION = 0.1.0

PREFIX	= /usr/local
SBINDIR	= $(PREFIX)/sbin
LIBDIR	= $(PREFIX)/lib
MANDIR	= $(PREFIX)/share/man
DOCDIR	= $(PREFIX)/share/doc/tlsplice
UNITDIR	= $(PREFIX)/lib/systemd/system
DESTDIR	=

# V=1 shows every command; WERROR=1 (and CI=true) makes warnings errors; SAN=address,undefined or SAN=thread builds
# with sanitizers in a directory of its own; MALLOC=system leaves jemalloc out.
V	= 0
WERROR	= $(if $(filter true 1,$(CI)),1,0)
SAN	=
MALLOC	= $(if $(SAN),system,jemalloc)
comma	:= ,
BUILD	= build$(if $(SAN),-san-$(subst $(comma),-,$(SAN)))

CFLAGS	= -O2 -g
LDFLAGS	=
WARN	= -Wall -Wextra -Wshadow -Wvla -Wundef -Wwrite-strings -Wstrict-prototypes -Wmissing-prototypes -Wformat=2
HARDEN	= -fstack-protector-strong -fstack-clash-protection -fPIE
# The fortified functions hide reads and writes from the sanitizers, which check them better.
HARDEN	+= $(if $(SAN),,-U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2)
# gcc warns of variables that are not uninitialized once sanitizers have been at them.
SANFLAGS = $(if $(SAN),-Wno-unknown-warning-option -Wno-maybe-uninitialized -fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer)

# Optional: AES-GCM by intel-ipsec-mb where its header is installed (x86-64).
ipsec_mb := $(wildcard /usr/include/intel-ipsec-mb.h)

# Optional: hosts.allow and hosts.deny by the TCP wrappers library.
libwrap := $(wildcard /usr/include/tcpd.h)

override cflags = -std=gnu17 $(WARN) $(if $(filter 1,$(WERROR)),-Werror) $(HARDEN) $(SANFLAGS) -pthread \
	$(if $(SAN),-DRING_FAULTS) $(if $(ipsec_mb),-DHAVE_IPSEC_MB) -D_GNU_SOURCE -DTLSPLICE_VERSION='"$(VERSION)"' -DLIBDIR='"$(LIBDIR)"' -Isrc $(CFLAGS)
override ldflags = -pie -Wl,-z,relro -Wl,-z,now -pthread $(SANFLAGS) $(LDFLAGS)
LIBS	= $(if $(ipsec_mb),-lIPSec_MB) $(if $(libwrap),-lwrap) $(if $(filter jemalloc,$(MALLOC)),-ljemalloc) -luring -lssl -lcrypto -lmicrohttpd -ldl -lm

# The context switch has landing pads for indirect branches, and no shadow stack: it leaves one stack for another.
machine	:= $(shell uname -m)
switch_cflags = $(if $(filter x86_64,$(machine)),-fcf-protection=branch)

sources	:= $(filter-out $(if $(ipsec_mb),,src/aead_ipsec_mb.c) src/$(if $(libwrap),wrap_none,wrap_library).c,$(sort $(wildcard src/*.c src/*.S src/proto/*.c)))
objects	:= $(patsubst %,$(BUILD)/%.o,$(basename $(sources)))
library	:= $(filter-out $(BUILD)/src/main.o,$(objects))
units	:= $(patsubst tests/unit/%.c,$(BUILD)/unit/%,$(sort $(wildcard tests/unit/test_*.c)))
fuzzers	:= $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(sort $(wildcard tests/fuzz/fuzz_*.c)))
tools	:= $(patsubst tests/tools/%.c,$(BUILD)/tools/%,$(sort $(wildcard tests/tools/*.c)))
modules	:= $(patsubst tests/modules/%.c,$(BUILD)/modules/%.so,$(sort $(wildcard tests/modules/*.c)))
benches	:= $(patsubst bench/%.c,$(BUILD)/bench/%,$(sort $(wildcard bench/*.c)))

ifeq ($(V),1)
Q	=
say	= @:
else
Q	= @
say	= @printf '  %-7s %s\n'
endif

.SUFFIXES:
.DELETE_ON_ERROR:
.SECONDARY:
.PHONY: all run test quick unit e2e test-guest fuzz bench bench-guest install deb man clean help lint tidy cppcheck tests FORCE

all: $(if $(wildcard src/main.c),$(BUILD)/tlsplice,$(BUILD)/libtlsplice.a) $(BUILD)/libtlsplice_preload.so

help:
	@printf '%s\n' \
	'make                     build $(BUILD)/tlsplice' \
	'make run                 install what is missing, build, start configs/quickstart.conf' \
	'make test                install what is missing, build, run every test' \
	'make quick               unit tests and the fast end-to-end tests' \
	'make unit, make e2e      only these (K=expression selects end-to-end tests)' \
	'make test-guest          the tests of kernel TLS, in guests (KERNEL=uml6.1, K=expression)' \
	'make fuzz                fuzz every parser for SECONDS=60 each (clang)' \
	'make lint                clang-tidy and cppcheck (also: make tidy, make cppcheck)' \
	'make bench               measure beside other proxies, see bench/README.md' \
	'make bench-guest         count their instructions in a guest with kTLS (GUEST=options)' \
	'make install             PREFIX=$(PREFIX) DESTDIR=' \
	'make deb                 build a Debian package in $(BUILD)/deb (DEBFULLNAME, DEBEMAIL: its maintainer)' \
	'make man                 put the options as the code knows them into man/tlsplice.conf.5' \
	'make clean               remove build*/' \
	'' \
	'V=1                      show every command' \
	'SAN=address,undefined    sanitizer build in its own directory; also SAN=thread' \
	'MALLOC=system            do not link jemalloc' \
	'WERROR=1                 warnings are errors (always so when CI=true)' \
	'CC=clang BUILD=dir       another compiler, another build directory'

# --- the binary ---------------------------------------------------------------------------------------------------

$(BUILD)/tlsplice: $(BUILD)/src/main.o $(BUILD)/libtlsplice.a
	$(say) LINK $@
	$(Q)$(CC) $(ldflags) -o $@ $^ $(LIBS)

# For programs that `exec` starts, so never with sanitizers: preload/getpeername.c.
$(BUILD)/libtlsplice_preload.so: preload/getpeername.c $(BUILD)/flags
	$(say) CC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 $(WARN) $(if $(filter 1,$(WERROR)),-Werror) -D_GNU_SOURCE -fPIC -fvisibility=hidden -shared -Wl,-z,relro -Wl,-z,now \
		$(CFLAGS) $(LDFLAGS) -o $@ $< -ldl

# An archive, so that a unit test is linked with what it uses.
$(BUILD)/libtlsplice.a: $(library)
	$(say) AR $@
	$(Q)mkdir -p $(@D) && rm -f $@ && $(AR) rcs $@ $^

$(BUILD)/%.o: %.c $(BUILD)/flags | $(BUILD)/features
	$(say) CC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(cflags) $(extra_cflags) -MMD -MP -c -o $@ $<

$(BUILD)/%.o: %.S $(BUILD)/flags | $(BUILD)/features
	$(say) AS $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(cflags) $(extra_cflags) -MMD -MP -c -o $@ $<

$(BUILD)/src/coro_switch%.o: extra_cflags = $(switch_cflags)
$(BUILD)/src/coro_switch.o: extra_cflags = $(switch_cflags)

# Changes when the compiler or a flag changes: then everything is built again.
flags	= $(CC) $(cflags) $(ldflags) $(LIBS)
$(BUILD)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' $(call quote,$(flags)) | cmp -s - $@ || printf '%s\n' $(call quote,$(flags)) > $@
quote	= '$(subst ','\'',$(1))'

# --- what must be installed -----------------------------------------------------------------------------------------

# Small files that compile and link when the thing they are named after is there; their first line says which
# package it is in and which library to link.
features = liburing openssl microhttpd $(if $(filter jemalloc,$(MALLOC)),jemalloc) $(if $(libwrap),libwrap)

$(BUILD)/features: $(features:%=tests/features/%.c) $(BUILD)/flags
	$(Q)CC='$(CC)' tests/features/check $(SANFLAGS) -- $(features:%=tests/features/%.c)
	@mkdir -p $(@D) && touch $@

$(BUILD)/features-test: tests/features/criterion.c $(BUILD)/flags
	$(Q)CC='$(CC)' tests/features/check -- tests/features/criterion.c
	@mkdir -p $(@D) && touch $@

# --- tests -----------------------------------------------------------------------------------------------------------

# Criterion cannot run under the thread sanitizer or valgrind: UNIT=compat puts a small stand-in in its place.
UNIT	= $(if $(findstring thread,$(SAN)),compat,criterion)
ifeq ($(UNIT),compat)
unit_runner = $(BUILD)/tests/unit/compat/runner.o
$(BUILD)/tests/unit/%.o: extra_cflags = -Itests/unit/compat
else
unit_libs = -lcriterion
$(BUILD)/tests/unit/%.o: | $(BUILD)/features-test
endif

$(BUILD)/unit/%: $(BUILD)/tests/unit/%.o $(unit_runner) $(BUILD)/libtlsplice.a
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ldflags) -o $@ $^ $(LIBS) $(unit_libs)

# Fuzz targets: with a plain main() that replays the files of tests/fuzz/corpus, or (FUZZER=1, clang) with libFuzzer's.
FUZZER	= 0
$(BUILD)/fuzz/%: $(BUILD)/tests/fuzz/%.o $(if $(filter 1,$(FUZZER)),,$(BUILD)/tests/fuzz/replay.o) $(BUILD)/libtlsplice.a
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ldflags) $(if $(filter 1,$(FUZZER)),-fsanitize=fuzzer) -o $@ $^ $(LIBS)

# Programs that the end-to-end tests use; the proxy's code is not linked into them.
$(BUILD)/tools/%: $(BUILD)/tests/tools/%.o
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ldflags) -o $@ $^ -lssl -lcrypto -ldl

# Engines and providers that the end-to-end tests load, never with sanitizers.
$(BUILD)/modules/%.so: tests/modules/%.c $(wildcard tests/modules/*.h) $(BUILD)/flags
	$(say) CC $<
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu17 $(WARN) -D_GNU_SOURCE -fPIC -shared -pthread $(CFLAGS) $(LDFLAGS) -o $@ $< -lcrypto

$(BUILD)/bench/%: $(BUILD)/bench/%.o $(BUILD)/libtlsplice.a
	$(say) LINK $@
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(ldflags) -o $@ $^ $(LIBS)

tests: all $(units) $(fuzzers) $(tools) $(modules) $(BUILD)/man/options

test:
	@tests/install-deps build run test $(if $(SAN),,vm)
	@tests/run --make '$(MAKE)' $(if $(SAN),--san '$(SAN)',all)

quick:
	@tests/run --make '$(MAKE)' $(if $(SAN),--san '$(SAN)') quick

unit:
	@tests/run --make '$(MAKE)' $(if $(SAN),--san '$(SAN)') unit

e2e:
	@tests/run --make '$(MAKE)' $(if $(SAN),--san '$(SAN)') $(if $(K),-k '$(K)') e2e

test-guest:
	@tests/install-deps build run test vm
	@tests/run --make '$(MAKE)' $(if $(SAN),--san '$(SAN)') $(if $(K),-k '$(K)') $(if $(KERNEL),--kernel '$(KERNEL)') guest

SECONDS	= 60
fuzz:
	@$(MAKE) --no-print-directory CC=clang SAN=address,undefined BUILD=build-fuzz FUZZER=1 CFLAGS='-O1 -g -fsanitize=fuzzer-no-link' \
		$(fuzzers:$(BUILD)/%=build-fuzz/%)
	$(Q)set -e; for name in $(patsubst $(BUILD)/fuzz/fuzz_%,%,$(fuzzers)); do \
		echo "fuzzing $$name for $(SECONDS) s"; \
		mkdir -p build-fuzz/found/$$name; \
		build-fuzz/fuzz/fuzz_$$name -max_total_time=$(SECONDS) -timeout=10 -rss_limit_mb=2048 -print_final_stats=0 -verbosity=0 \
			-artifact_prefix=build-fuzz/ build-fuzz/found/$$name tests/fuzz/corpus/$$name; \
	done

# --- checks of the source ------------------------------------------------------------------------------------------

lint: tidy cppcheck

tidyflags = -std=gnu17 -D_GNU_SOURCE -DTLSPLICE_VERSION='"$(VERSION)"' -Isrc

tidy: | $(BUILD)/features
	$(Q)printf '%s\n' $(filter %.c,$(sources)) | xargs -P 2 -I FILE clang-tidy --quiet --warnings-as-errors='*' FILE -- $(tidyflags)

cppcheck:
	$(Q)cppcheck -q -j 2 --std=c11 --error-exitcode=1 --inline-suppr --enable=warning,performance,portability \
		--suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches -D__x86_64__ -DTLSPLICE_VERSION='""' -Isrc src

# --- run, bench, install ---------------------------------------------------------------------------------------------

run:
	@tests/install-deps build run
	@$(MAKE) --no-print-directory all
	@packaging/quickstart $(BUILD)/tlsplice

bench:
	@tests/install-deps build run bench
	@$(MAKE) --no-print-directory all $(benches)
	@BUILD=$(BUILD) bench/run

GUEST	=
bench-guest:
	@tests/install-deps build run bench vm
	@$(MAKE) --no-print-directory all $(benches)
	@BUILD=$(BUILD) bench/guest $(GUEST)

# The page's option section stands between two comments; tests/e2e/test_docs.py compares it with the table.
$(BUILD)/man/options: $(BUILD)/man/options.o $(BUILD)/libtlsplice.a
	$(say) LINK $@
	$(Q)$(CC) $(ldflags) -o $@ $^ $(LIBS)

man: $(BUILD)/man/options
	$(Q)$< man > $(BUILD)/man/section
	$(Q)sed -e '/BEGIN OPTIONS/r $(BUILD)/man/section' -e '/BEGIN OPTIONS/,/END OPTIONS/{/BEGIN OPTIONS\|END OPTIONS/!d}' \
		man/tlsplice.conf.5 > $(BUILD)/man/tlsplice.conf.5
	$(Q)cmp -s $(BUILD)/man/tlsplice.conf.5 man/tlsplice.conf.5 || cp $(BUILD)/man/tlsplice.conf.5 man/tlsplice.conf.5

man5	= $(wildcard man/*.5)
man8	= $(wildcard man/*.8)
install: all
	install -d $(DESTDIR)$(SBINDIR) $(DESTDIR)$(UNITDIR) $(DESTDIR)$(DOCDIR)/examples/tproxy $(DESTDIR)$(DOCDIR)/examples/systemd $(DESTDIR)$(DOCDIR)/kernel-notes
	install -m 755 $(BUILD)/tlsplice $(DESTDIR)$(SBINDIR)/tlsplice
	install -d $(DESTDIR)$(LIBDIR)/tlsplice
	install -m 644 $(BUILD)/libtlsplice_preload.so $(DESTDIR)$(LIBDIR)/tlsplice
	sed 's|@SBINDIR@|$(SBINDIR)|g' packaging/tlsplice.service > $(DESTDIR)$(UNITDIR)/tlsplice.service
	chmod 644 $(DESTDIR)$(UNITDIR)/tlsplice.service
	install -m 644 $(wildcard configs/*.conf) $(DESTDIR)$(DOCDIR)/examples
	install -m 644 $(wildcard configs/tproxy/*.conf) $(DESTDIR)$(DOCDIR)/examples/tproxy
	install -m 755 $(filter-out %.conf,$(wildcard configs/tproxy/*)) $(DESTDIR)$(DOCDIR)/examples/tproxy
	install -m 644 $(wildcard configs/systemd/*) $(DESTDIR)$(DOCDIR)/examples/systemd
	sed -i 's|/usr/local/sbin|$(SBINDIR)|' $(DESTDIR)$(DOCDIR)/examples/systemd/*
	install -m 644 $(wildcard README.md NEWS.md LICENSE) $(DESTDIR)$(DOCDIR)
	install -m 644 $(wildcard kernel-notes/*.md) $(DESTDIR)$(DOCDIR)/kernel-notes
	$(if $(man5),install -d $(DESTDIR)$(MANDIR)/man5 && install -m 644 $(man5) $(DESTDIR)$(MANDIR)/man5)
	$(if $(man8),install -d $(DESTDIR)$(MANDIR)/man8 && install -m 644 $(man8) $(DESTDIR)$(MANDIR)/man8)

deb:
	@tests/install-deps build deb
	@packaging/build-deb $(VERSION) $(BUILD)/deb

clean:
	rm -rf build build-*

-include $(wildcard $(BUILD)/src/*.d $(BUILD)/src/*/*.d $(BUILD)/man/*.d $(BUILD)/tests/*/*.d $(BUILD)/tests/unit/compat/*.d $(BUILD)/bench/*.d)
