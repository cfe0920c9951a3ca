from __future__ import annotations

import pytest

from tissuebench.errors import ConfigError
from tissuebench.methods.complementary import Complementary
from tissuebench.methods.networks.settings import EncoderMode
from tissuebench.plans.schema import EvaluationSettings, Plan, load_plan, plan_names, validated


@pytest.fixture
def plan_file(tmp_path):
    def write(text, name="mine.yaml"):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.mark.parametrize("name", plan_names())
def test_every_plan_that_ships_loads(name):
    plan = load_plan(name)
    assert plan.budgets
    assert plan.seeds
    assert plan.evaluation.part == "test"
    for method, settings in plan.methods.items():
        assert isinstance(method, str)
        assert isinstance(settings, dict)


def test_the_plans_that_ship():
    assert {"smoke", "standard"} <= set(plan_names())
    smoke = load_plan("smoke")
    assert smoke.budgets == ("masks:3p", "masks:6p", "minutes:60")
    assert smoke.network.encoder_mode is EncoderMode.FROZEN


def test_a_plan_from_a_file(plan_file):
    plan = load_plan(plan_file("budgets: ['masks:1p']\ntraining: {steps: 7}\nreplicates: [4, 5]\n"))
    assert (plan.budgets, plan.training.steps, plan.replicates) == (("masks:1p",), 7, (4, 5))
    assert plan.seeds == (0, 1, 2)
    assert load_plan(plan_file("budgets: ['masks:1p']\n", "mine.yml")).training == Plan(budgets=("x",)).training


def test_overrides_replace_single_keys():
    overrides = (
        "training.steps=5",
        "training.learning_rate=0.5",
        "seeds=[7]",
        'budgets=["masks:all"]',
        "network.encoder=resnet18",
        "methods.complementary.gamma=1.5",
        "training.compile=true",
    )
    plan, before = load_plan("smoke", overrides), load_plan("smoke")
    assert (plan.training.steps, plan.training.learning_rate, plan.training.compile) == (5, 0.5, True)
    assert plan.training.batch_size == before.training.batch_size
    assert (plan.seeds, plan.budgets, plan.network.encoder) == ((7,), ("masks:all",), "resnet18")
    assert plan.methods == {**before.methods, "complementary": {"gamma": 1.5}}
    assert plan.evaluation == before.evaluation


def test_the_last_override_wins():
    assert load_plan("smoke", ("training.steps=5", "training.steps=6")).training.steps == 6


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stepss=3", r"unknown key 'training\.stepss': did you mean 'training\.steps'\?"),
        ("trainin.steps=3", "unknown key 'trainin': did you mean 'training'"),
        ("network.decoder_channel=3", r"did you mean 'network\.decoder_channels'"),
        ("evaluation.windows_px=64", r"did you mean 'evaluation\.window_px'"),
        ("augmentation.colour=0", r"did you mean 'augmentation\.color'"),
        ("seed=3", "unknown key 'seed': did you mean 'seeds'"),
        ("training.steps.more=3", "'steps' has no keys of its own"),
        ("training.steps", "write KEY=VALUE"),
        ("=3", "write KEY=VALUE"),
        ("training.steps=[1", "not YAML"),
        ("training.steps=many", r"key 'training\.steps'"),
        ("training.steps=0", r"key 'training\.steps'"),
        ("training.steps=2.5", r"key 'training\.steps'"),
        ("training.learning_rate=-1", r"key 'training\.learning_rate'"),
        ("training=5", "key 'training'"),
        ("budgets=masks:3p", "key 'budgets'"),
        ("budgets=[]", "key 'budgets'"),
        ("seeds=[]", "key 'seeds'"),
        ("seeds=[a]", r"key 'seeds\.0'"),
        ("replicates=sometimes", "replicates"),
        ("network.decoder=linknet", r"key 'network\.decoder'"),
        ("evaluation.part=train", r"key 'evaluation\.part'"),
        ("evaluation.overlap=1", r"key 'evaluation\.overlap'"),
        ("methods.complementary=3", r"key 'methods\.complementary'"),
    ],
)
def test_a_wrong_override_names_its_key(override, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load_plan("smoke", (override,))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("budgets: masks:3p\n", r"key 'budgets': Input should be a list, as in \[a, b\]"),
        ("budgets: [a\n", "not YAML"),
        ("\t- x: [", "not YAML"),
        ("", "a plan is a mapping"),
        ("[1, 2]", "a plan is a mapping"),
        ("text", "a plan is a mapping"),
        ("seeds: [1]\n", "key 'budgets'"),
        ("budgets: [x]\n3: 4\n", "3"),
        ("budgets: [x]\ntraining:\n  step: 3\n", r"unknown key 'training\.step': did you mean 'training\.steps'"),
        (b"budgets: [\xff\xfe]\n", "cannot be read as UTF-8"),
        ("budgets: !!python/object/apply:os.getcwd []\n", "not YAML"),
        ("!!python/object:tissuebench.plans.schema.Plan {}\n", "not YAML"),
        ("budgets: !!python/tuple [a]\n", "not YAML"),
        ("budgets: !include other.yaml\n", "not YAML"),
    ],
)
def test_a_wrong_plan_file_is_one_line_that_names_it(plan_file, text, message):
    path = plan_file(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_plan(path)
    assert "mine.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tags_of_python_are_refused_in_overrides_too():
    with pytest.raises(ConfigError, match="not YAML"):
        load_plan("smoke", ("training.steps=!!python/object/apply:os.getcwd []",))


def test_plans_that_are_not_there(tmp_path):
    with pytest.raises(ConfigError, match="unknown plan 'smok': did you mean 'smoke'"):
        load_plan("smok")
    with pytest.raises(ConfigError, match=r"none\.yaml: no such plan file"):
        load_plan(str(tmp_path / "none.yaml"))


def test_settings_of_a_method():
    assert validated(Complementary.Config, {"gamma": 1}, "plan").gamma == 1.0
    with pytest.raises(ConfigError, match=r"methods\.complementary: unknown key 'gama': did you mean 'gamma'"):
        validated(Complementary.Config, {"gama": 1}, "plan: methods.complementary")
    with pytest.raises(ConfigError, match="key 'ramp'"):
        validated(Complementary.Config, {"ramp": 2}, "plan")


def test_a_plan_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        load_plan("smoke").training.steps = 3


@pytest.mark.parametrize("overlap", [-0.1, 0.6, 1.0, 64])
def test_windows_that_would_hardly_advance_are_refused(overlap):
    with pytest.raises(ValueError, match="overlap"):
        EvaluationSettings(overlap=overlap)
    assert EvaluationSettings(overlap=0.5).window_px is None
