# SPDX-License-Identifier: LGPL-2.1-or-later
"""The binding against a libxenlight of ours that counts, and against the real one off Xen.

Each script runs in a process of its own: a process can load only one libxenlight.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from xenwarden_host.libxl import binding
from xenwarden_host.libxl.errors import NAMES, error

if TYPE_CHECKING:
    from pathlib import Path

SOURCE = os.path.join(os.path.dirname(__file__), "fake_libxl.c")  # noqa: PTH118,PTH120  for gcc

PROLOGUE = """
import ctypes
from uuid import UUID
from xenwarden_channel.fake import FakeStore
from xenwarden_host.errors import *
from xenwarden_host.libxl.xenlight import Xenlight
from xenwarden_host.records import *
fake = ctypes.CDLL("libxenlight.so.4.17")
def value(name): return ctypes.c_int.in_dll(fake, name)
def fails(call, kind):
    try: call()
    except kind as problem: return problem
    raise AssertionError("did not fail")
store = FakeStore()
"""
EPILOGUE = """
xen.close()
assert value("fake_live").value == 0, "libxl's memory not freed"
assert value("fake_contexts").value == 0
print("done")
"""


def soname() -> str:
    """Return the soname that the C module needs, skip where it is not built."""
    from importlib.util import find_spec  # noqa: PLC0415

    spec = find_spec("xenwarden_host.libxl._xenlight")
    if spec is None or spec.origin is None or not shutil.which("gcc"):
        if os.environ.get("CI"):
            pytest.fail("the libxl binding is not built here, or there is no C compiler")
        pytest.skip("the libxl binding is not built here, or there is no C compiler")
    shown = subprocess.run(["readelf", "-d", spec.origin], check=True, capture_output=True, text=True).stdout
    return next(w.strip("[]") for w in shown.split() if w.startswith("[libxenlight.so"))


@pytest.fixture(scope="module")
def fake_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("libxl")
    name = soname()
    argv = [
        "gcc",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-DLIBXL_API_VERSION=0x041400",
        f"-Wl,-soname,{name}",
    ]
    subprocess.run([*argv, "-o", str(folder / name), SOURCE], check=True)
    return folder


def run(code: str, library_path: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = dict(os.environ)
    if library_path is not None:
        environment["LD_LIBRARY_PATH"] = str(library_path)
    argv = [sys.executable, "-c", code]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env=environment)


def on_fake(folder: Path, code: str) -> None:
    """Run `code` with the fake; afterwards nothing of libxl's may be left."""
    done = run(PROLOGUE + "xen = Xenlight(store)\n" + code + EPILOGUE, folder)
    assert done.stdout.endswith("done\n"), done.stderr


def test_domains_come_whole_sorted_and_freed(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
value("fake_domains").value = 4
for path, text in {
    "/local/domain/5/name": b"web", "/libxl/5/type": b"pvh",
    "/local/domain/10/name": b"net", "/libxl/10/type": b"hvm", "/local/domain/10/libxl": b"",
    "/local/domain/15/name": b"old", "/libxl/15/type": b"pv", "/local/domain/15/target": b"5",
}.items(): store.write(path, text)
dom0, web, net, old = xen.list_domains()
assert (dom0.domid, dom0.name, dom0.vm_type, dom0.service) == (0, "Domain-0", VmType.DOM0, True)
assert dom0.uuid == str(UUID(int=0))
assert web == DomainInfo(domid=5, uuid="11111111-1111-1111-1111-111111111111", name="web",
    vm_type=VmType.PVH, cpu_time_s=1.5, memory_kb=1001, max_memory_kb=2001, vcpus_online=2, paused=False,
    dying=False, cpupool=1, service=False)
assert (net.vm_type, net.paused, net.service) == (VmType.HVM, True, True)
assert (old.dying, old.service) == (True, True)
store.write("/local/domain/5/name", b"web2")
store.remove("/libxl/5/type")
assert [(d.name, d.vm_type) for d in xen.list_domains() if d.domid == 5] == [("web2", VmType.PVH)]
""",
    )


def test_the_store_domain_serves_others(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
store.write("/tool/xenstored/domid", b"10")
assert [d.domid for d in xen.list_domains() if d.service] == [0, 10]
""",
    )


def test_vcpus_that_are_online_say_where_they_may_run_and_whether_they_want_to(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
everywhere, last = frozenset(range(10)), frozenset((9,))
assert xen.vcpu_infos(5) == [VcpuInfo(everywhere, False), VcpuInfo(last, True)]
value("fake_info_error").value = -21
fails(lambda: xen.vcpu_infos(6), DomainGoneError)
value("fake_info_error").value = 0
fails(lambda: xen.vcpu_infos(6), HypervisorError)
""",
    )


def test_scheduler_parameters_change_only_what_is_given(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
value("fake_weight").value, value("fake_cap").value = 512, 40
assert xen.sched_params(5) == SchedParams("credit2", 512, 40)
given = lambda: (value("fake_set_weight").value, value("fake_set_cap").value)
xen.set_sched_params(5, cap=25)
assert given() == (-1, 25)
xen.set_sched_params(5, weight=100)
assert given() == (100, -1)
assert value("fake_set_scheduler").value == 0
""",
    )


def test_a_scheduler_without_weight_and_cap_says_so_also_where_libxl_fails(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
value("fake_scheduler").value = 8
assert xen.sched_params(5) == SchedParams("rtds", None, None)
value("fake_scheduler").value, value("fake_get_error").value = 7, -6
assert xen.sched_params(5) == SchedParams("arinc653", None, None)
""",
    )


def test_errors_have_names_and_a_dead_domain_is_its_own(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
value("fake_get_error").value = value("fake_set_error").value = -3
assert fails(lambda: xen.sched_params(5), HypervisorError).code == "ERROR_FAIL"
assert type(fails(lambda: xen.set_sched_params(5, cap=1), HypervisorError)) is HypervisorError
value("fake_info_error").value = -21
for call in (lambda: xen.sched_params(5), lambda: xen.set_sched_params(5, cap=1)):
    gone = fails(call, DomainGoneError)
    assert gone.code == "ERROR_DOMAIN_NOTFOUND" and "5" in str(gone)
value("fake_domains").value = -1
assert fails(xen.list_domains, HypervisorError).code == "ERROR_FAIL"
""",
    )


def test_memory_is_freed_where_xenstore_fails_in_the_middle(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
from xenwarden_channel.errors import StoreError
store.lose()
fails(xen.list_domains, StoreError)
""",
    )


def test_host_info(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
assert xen.host_info() == HostInfo("4.17.7-fake", 2, "credit2", 1 << 20, 1 << 18, 2400000)
assert value("fake_owner").value == 3, "children: libxl reaps its own only"
""",
    )


def test_pause_memory_and_vcpus(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
xen.pause(5)
assert (value("fake_pauses").value, xen.paused(5), xen.paused(10)) == (1, False, True)
xen.unpause(5)
assert value("fake_pauses").value == 0
assert value("fake_slow_context_differs").value == 1
store.write("/local/domain/5/memory/target", b"262144")
assert xen.memory_target_kb(5) == 1 << 18
assert fails(lambda: xen.memory_target_kb(10), HypervisorError).code == "ERROR_NOT_READY"
xen.set_memory_target(5, 1000)
assert value("fake_target").value == 1000
for n, word in enumerate((b"online", b"online", b"offline")):
    store.write(f"/local/domain/5/cpu/{n}/availability", word)
assert xen.vcpus_available(5) == 2
xen.set_vcpus_available(5, 3)
assert value("fake_vcpu_mask").value == 0b111
""",
    )


def test_a_slow_call_delays_no_quick_one_and_fails_later_by_name(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
from time import monotonic, sleep
value("fake_slow_ms").value, value("fake_slow_error").value = 1000, -9
start = monotonic()
xen.set_memory_target(5, 1000)
xen.sched_params(5)
assert monotonic() - start < 0.9, "waited for the slow call"
while True:  # the same again raises what the first came to
    sleep(0.2)
    try: xen.set_memory_target(5, 1000)
    except HypervisorError as problem: late = problem; break
assert late.code == "ERROR_TIMEDOUT"
value("fake_slow_ms").value = 0
""",
    )


def test_after_a_failure_slow_calls_get_a_new_context(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
opened = value("fake_contexts").value
value("fake_slow_error").value = -3
fails(lambda: xen.set_memory_target(5, 1), HypervisorError)
assert value("fake_contexts").value == opened, "the broken context is closed"
value("fake_slow_error").value = 0
xen.set_memory_target(5, 1000)
assert value("fake_target").value == 1000
""",
    )


def test_a_slow_call_for_a_dead_domain_says_so(fake_folder: Path) -> None:
    on_fake(
        fake_folder,
        """
value("fake_slow_error").value, value("fake_info_error").value = -3, -21
fails(lambda: xen.unpause(5), DomainGoneError)
""",
    )


def test_a_closed_context_is_not_used_again(fake_folder: Path) -> None:
    on_fake(fake_folder, "xen.close()\nfails(xen.list_domains, RuntimeError)\n")


def test_off_xen_it_says_what_is_missing() -> None:
    soname()
    code = "from xenwarden_host.libxl.xenlight import Xenlight\n"
    code += "from xenwarden_host.errors import HypervisorError\n"
    code += "try: Xenlight(None)\nexcept HypervisorError as e: print(e.code, e.message, e.hint, sep='|')"
    if os.path.exists("/proc/xen/privcmd"):  # noqa: PTH110
        pytest.skip("this is a dom0")
    name, message, hint = run(code).stdout.strip().split("|")
    assert name == "ERROR_FAIL"
    assert "not a running dom0" in message
    assert "boot under Xen" in hint


def test_another_release_of_xen_is_refused_with_a_sentence() -> None:
    linker = "libxenlight.so.4.17: cannot open shared object file: No such file or directory"
    refused = binding.explain(ImportError(linker))
    assert refused.code == "ERROR_VERSION"
    assert "built for Xen 4.17" in refused.message
    assert binding.explain(ImportError("No module named '_xenlight'")).code == "ERROR_NI"


def test_every_error_code_of_the_installed_libxl_has_its_name() -> None:
    try:
        with open("/usr/include/_libxl_types.h", encoding="ascii") as header:  # noqa: PTH123
            lines = [line.strip(" ,\n").split(" = ") for line in header if line.startswith("    ERROR_")]
    except FileNotFoundError:
        pytest.skip("libxen-dev is not installed")
    assert {int(number): name for name, number in lines} == NAMES
    assert error("call", -99).code == "ERROR_99"
