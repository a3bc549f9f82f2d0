"""What all tests share: how hard hypothesis tries, and the fixtures that users get from `corgi.testing`.

HYPOTHESIS_PROFILE chooses the effort: `quick` while writing, `default`, `ci`, and `deep` for a night.
"""

import importlib.util
import os
import signal

from hypothesis import HealthCheck, settings

settings.register_profile("quick", max_examples=20, deadline=None)
settings.register_profile("default", max_examples=100, deadline=None)
# A shared machine may pause for long, so time says nothing about health there.
# A failure prints how to repeat it.
settings.register_profile(
    "ci", max_examples=100, deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("deep", parent=settings.get_profile("ci"), max_examples=5_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# A shell that starts the tests in the background lets SIGINT be ignored, also by the commands that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Our own plugin is registered here, not by its entry point (see addopts in pyproject.toml).
_plugin = "corgi.testing.plugin"
if importlib.util.find_spec("corgi.testing") and importlib.util.find_spec(_plugin):
    pytest_plugins = [_plugin]
