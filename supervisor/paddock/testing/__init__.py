"""A host for a test: in a folder of its own, with scripts for models, gone when the test is over.

::

    from paddock.testing import call, host, turn  # `host` is a pytest fixture


    def test_it(host):
        model = host.script(turn(call("bash", command="echo hi")), turn("done"))
        with host.client() as paddock:
            outcome = paddock.new(model=model, mode="yolo").send("go").wait()
        assert outcome.final_message == "done"
"""

from paddock.testing.fixtures import host
from paddock.testing.hosts import HostForTests
from paddock.testing.scripts import call, turn, write_script
from paddock.testing.waiting import NotYet, wait_until, wait_until_async

__all__ = [
    "HostForTests",
    "NotYet",
    "call",
    "host",
    "turn",
    "wait_until",
    "wait_until_async",
    "write_script",
]
