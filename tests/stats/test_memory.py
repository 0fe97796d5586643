"""What may be used of the memory that is there."""

from types import SimpleNamespace

from comq_onnx.stats import memory


def test_the_users_limit_counts(monkeypatch):
    for held, left in ((0, 3 << 29), (1 << 30, 1 << 29), (1 << 40, 3 << 27)):
        monkeypatch.setattr(memory, "resident", lambda held=held: held)
        assert memory.memory_limit(1.5) == left


def test_what_the_process_holds_is_plausible():
    assert 1 << 22 < memory.resident() < 1 << 40


def test_half_of_what_is_available_otherwise(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 10)
    assert memory.memory_limit(0.0) == 5


def test_what_is_available_is_plausible():
    assert 1 << 26 < memory.available_memory() < 1 << 50


def test_a_container_is_held_to_its_limit(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("300\n")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() == 700
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.available_memory() > 700


def test_systems_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "STATM", tmp_path / "nothing")
    assert memory.resident() == 0
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "none")
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    assert memory.available_memory() > 1 << 20
    monkeypatch.delattr(memory.os, "sysconf")
    assert memory.available_memory() == memory.UNKNOWN


def test_half_of_what_is_free_on_a_gpu():
    freed = []
    cupy = SimpleNamespace(
        get_default_memory_pool=lambda: SimpleNamespace(free_all_blocks=lambda: freed.append(True)),
        cuda=SimpleNamespace(runtime=SimpleNamespace(memGetInfo=lambda: (8 << 30, 16 << 30))),
    )
    assert memory.device_memory_limit(cupy, 0.0) == 4 << 30
    assert memory.device_memory_limit(cupy, 1.5) == 3 << 29
    assert memory.device_memory_limit(cupy, 6.0) == 4 << 30
    assert len(freed) == 3
