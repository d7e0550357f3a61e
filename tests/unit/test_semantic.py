"""Routers that read questions with the answerer's own model, on a tiny random one, and what they refuse."""

import pytest
import torch
import transformers

from actors.models import AnswererFacts
from actors.models.heads import Heads, SemanticHead, load_heads, save_heads
from actors.models.prompting import write_prompt
from actors.models.semantic import DEFINITIONS, LABELS, LabelRouter, TrainedRouter
from actors.models.shadow import Shadow
from actors.models.tables import describe_router, find_answerer, find_router
from actors.models.video_llm import make
from pipeline.config import AnswerConfig, CompressConfig, JobConfig, PlanConfig
from pipeline.errors import ConfigError, ModelError
from pipeline.queries import Query
from pipeline.route import Route
from tests import plugins_sample, tiny_models, tiny_models_any

LAYERS = 2
ASKED = [
    ("Summarize the video.", "ask"), ("What colour is the car?", "ask"), ("A dog", "find"),
    ("What colour is the car?", "flag"), ("Is there a fire? Answer yes or no.", "flag"),
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_models.build("internvl", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def llm(model):
    return make(AnswerConfig(model=model, dtype="float32", frame_px=56), CompressConfig(), "cpu")


@pytest.fixture(scope="module")
def job(model):
    def get(router, **plan):
        answer = AnswerConfig(model=model, dtype="float32", frame_px=56)
        return JobConfig(answer=answer, plan=PlanConfig(router=router, early_layers=LAYERS, **plan))

    return get


def trained_heads(folder, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        semantic = SemanticHead(tiny_models.HIDDEN)
    values = {"hidden_size": tiny_models.HIDDEN, "early_layers": LAYERS, "early_tokens": 4,
              "semantic": semantic, "image": None, "semantic_temperature": 0.5}  # fmt: skip
    save_heads(folder, Heads(**(values | changes)))
    return str(folder)


def describe(config):
    return describe_router(config, find_answerer(config.answer).describe(config.answer))


def routes(config, asked=ASKED):
    entry, facts = describe(config)
    assert facts.needs_model
    return entry.make(config, "cpu")(asked)


# --- llm -------------------------------------------------------------------------------------------------


def test_llm_compares_what_the_library_says_of_the_labels_with_and_without_a_question(job, llm, model):
    library = transformers.AutoModelForImageTextToText.from_pretrained(model, dtype="float32").eval()

    def logs(text):
        query = Query("q", DEFINITIONS + text, "choose", LABELS)
        prompt = write_prompt(llm.parts, (), query)
        with torch.inference_mode():
            return _whole_prompt_logs(llm, library, prompt)

    prior = logs("")
    for (text, _), found in zip(ASKED, routes(job("llm")), strict=True):
        whole, moments = torch.softmax(logs(text) - prior, 0).tolist()
        assert found.route == ("fragment" if moments > whole else "global")
        assert found.confidence == pytest.approx(max(whole, moments), abs=1e-4)
        assert found.reason == f"llm: whole {whole:.2f}, moments {moments:.2f}"
    plain = torch.softmax(logs(ASKED[0][0]), 0)
    assert (plain - torch.softmax(logs(ASKED[0][0]) - prior, 0)).abs().max() > 0.001, (
        "the prior must matter here"
    )


def _whole_prompt_logs(llm, library, prompt):
    assert prompt.head == ()
    found = []
    for word in LABELS:
        label = llm.parts.tokenizer(
            word if prompt.text[-1:].isspace() else f" {word}", add_special_tokens=False
        )["input_ids"]
        ids_L = torch.tensor([*prompt.tail, *label])
        log_LV = torch.log_softmax(library(input_ids=ids_L[None]).logits[0], -1)
        found.append(torch.stack([log_LV[-len(label) - 1 + at, id_] for at, id_ in enumerate(label)]).mean())
    return torch.stack(found)


# --- trained ---------------------------------------------------------------------------------------------


def test_trained_is_the_head_behind_the_first_layers(job, llm, tmp_path):
    heads = trained_heads(tmp_path / "heads")
    found = routes(job("trained", heads=heads))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        head = SemanticHead(tiny_models.HIDDEN).eval()
    states_PD = Shadow(llm, LAYERS, 4).question_states([text for text, _ in ASKED])
    shares_P2 = torch.softmax(head(states_PD) / 0.5, -1).tolist()
    for (whole, moments), route in zip(shares_P2, found, strict=True):
        assert route.route == ("fragment" if moments > whole else "global")
        assert route.confidence == pytest.approx(max(whole, moments), abs=1e-5)
        assert route.reason == f"trained: whole {whole:.2f}, moments {moments:.2f}"


def test_trained_runs_the_first_layers_only(job, tmp_path):
    config = job("trained", heads=trained_heads(tmp_path / "heads"))
    router = find_router("trained").make(config, "cpu")
    llm = router.shadow.llm
    ran = []
    for at, layer in enumerate(llm.language.decoder.layers):
        layer.register_forward_hook(lambda *_, at=at: ran.append(at))
    router(ASKED[:1])
    assert ran == list(range(LAYERS))
    assert len(llm.language.decoder.layers) > LAYERS


def test_a_temperature_moves_confidence_and_not_the_route(job, tmp_path):
    sharp = routes(job("trained", heads=trained_heads(tmp_path / "a", semantic_temperature=0.1)))
    flat = routes(job("trained", heads=trained_heads(tmp_path / "b", semantic_temperature=10.0)))
    for one, other in zip(sharp, flat, strict=True):
        assert one.route == other.route
        assert 0.5 <= other.confidence < one.confidence


# --- both ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("router", ["llm", "trained"])
def test_a_route_depends_on_the_text_alone(job, tmp_path, router):
    config = job(router, heads=trained_heads(tmp_path / "heads"))
    found = routes(config)
    assert found[1] == found[3], "another kind, the same text"
    assert routes(config, ASKED[::-1]) == found[::-1]
    assert [routes(config, [one])[0] for one in ASKED] == found
    assert len({route.confidence for route in found}) == len({text for text, _ in ASKED})
    assert routes(config, []) == []


@pytest.mark.parametrize("router", ["llm", "trained"])
def test_a_question_that_the_model_cannot_be_asked_is_shown_everything(job, tmp_path, router):
    config = job(router, heads=trained_heads(tmp_path / "heads"))
    marked, good = routes(config, [("Is it <|im_end|> over?", "ask"), ("Is it over?", "ask")])
    assert (marked.route, marked.confidence) == ("global", 0.0)
    assert marked.reason.startswith(f"{router}: not asked, ")
    assert good.confidence >= 0.5


def test_weights_that_are_no_numbers_end_the_run(model, tmp_path):
    broken = make(AnswerConfig(model=model, dtype="float32", frame_px=56), CompressConfig(), "cpu")
    torch.nn.init.constant_(broken.language.embed.weight, torch.nan)
    with pytest.raises(ModelError, match=r"cannot route questions: .* not finite numbers.*plan\.router"):
        LabelRouter(broken)
    heads = load_heads(trained_heads(tmp_path / "heads"), hidden_size=tiny_models.HIDDEN)
    with pytest.raises(ModelError, match=r"cannot route questions: .* not finite numbers.*plan\.router"):
        TrainedRouter(Shadow(broken, LAYERS, 4), heads.semantic, 1.0)(ASKED[:1])


@pytest.mark.parametrize("broken", ["memory", "numbers"])
@pytest.mark.parametrize("router", ["llm", "trained"])
def test_what_is_not_the_question_s_fault_is_no_route(job, tmp_path, router, broken):
    """A route is written down for good, so a full memory must not become one."""
    route = find_router(router).make(job(router, heads=trained_heads(tmp_path / "heads")), "cpu")
    llm = route.llm if router == "llm" else route.shadow.llm

    def fails(_, __, found):
        if broken == "memory":
            raise torch.OutOfMemoryError("no memory left")
        return found * torch.nan

    handle = llm.language.embed.register_forward_hook(fails)
    told = "do not fit in memory" if broken == "memory" else "not finite numbers"
    with pytest.raises(ModelError, match=f"cannot route questions: .*{told}.*take another plan.router"):
        route(ASKED[:1])
    handle.remove()
    assert route(ASKED[:1])[0].confidence >= 0.5, "the next run may have the memory"


# --- what is refused before anything is loaded --------------------------------------------------------------


@pytest.mark.parametrize("router", ["llm", "trained"])
def test_without_a_model(router):
    with pytest.raises(ConfigError, match=r"set --answer\.model\. Routers that fit this job: rules$"):
        describe(JobConfig(plan=PlanConfig(router=router)))


@pytest.mark.parametrize("router", ["llm", "trained"])
def test_a_model_of_no_known_family(router, tmp_path):
    config = JobConfig(
        answer=AnswerConfig(model=str(tiny_models_any.build("llava", tmp_path / "m"))),
        plan=PlanConfig(router=router),
    )
    with pytest.raises(ConfigError, match=r"of a known family .*qwen2_vl.*is of none.* fit this job: rules$"):
        describe(config)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"hidden_size": 32, "semantic": SemanticHead(32)},
            r"hidden_size 32 .*, this job has 64; train heads on",
        ),
        ({"early_layers": 3}, r"early_layers 3 .*, this job has 2; set --plan\.early-layers 3"),
        ({"semantic": None}, r"expected 'semantic' among them"),
    ],
)
def test_heads_that_do_not_fit(job, tmp_path, changes, told):
    heads = trained_heads(tmp_path / "heads", **changes)
    with pytest.raises(ConfigError, match=rf"{told}.*\. Routers that fit this job: rules, llm$"):
        describe(job("trained", heads=heads))


def test_heads_that_are_not_there(job, tmp_path):
    with pytest.raises(ConfigError, match=r"name their folder with --plan\.heads\. Routers .*: rules, llm$"):
        describe(job("trained"))
    with pytest.raises(
        ModelError, match=r"found no readable heads\.json.*Routers that fit this job: rules, llm$"
    ):
        describe(job("trained", heads=str(tmp_path)))
    folder = trained_heads(tmp_path / "heads")
    (tmp_path / "heads" / "heads.safetensors").unlink()
    with pytest.raises(ModelError, match=r"heads\.safetensors cannot be read"):
        describe(job("trained", heads=folder))


def test_more_layers_than_the_model_has(model, tmp_path):
    heads = trained_heads(tmp_path / "heads", early_layers=9)
    plan = PlanConfig(router="trained", early_layers=9, heads=heads)
    with pytest.raises(ConfigError, match=r"first 9 layers of .*, which has 3; lower --plan\.early-layers"):
        describe(JobConfig(answer=AnswerConfig(model=model), plan=plan))


def test_another_training_in_the_same_folder_is_another_router(job, tmp_path):
    names = set()
    for seed in (0, 1):
        torch.manual_seed(seed)
        heads = trained_heads(tmp_path / "heads", semantic=SemanticHead(tiny_models.HIDDEN))
        names.add(describe(job("trained", heads=heads))[1].name)
    assert len(names) == 2
    assert all(name.startswith("trained@") for name in names)


# --- the table ---------------------------------------------------------------------------------------------


NO_MODEL = AnswererFacts("", "", 0, None)


def test_a_function_of_ones_own_is_a_router():
    config = JobConfig(plan=PlanConfig(router="tests.plugins_sample:always_global"))
    entry, facts = describe_router(config, NO_MODEL)
    assert (facts.name, facts.needs_model) == ("tests.plugins_sample:always_global", False)
    assert entry.make(config, "cpu")([("a", "ask"), ("b", "find")]) == [Route("global", 0.25, "always")] * 2


def test_an_entry_of_ones_own_is_a_router(monkeypatch):
    monkeypatch.setattr(plugins_sample, "ROUTER", find_router("llm"), raising=False)
    assert find_router("tests.plugins_sample:ROUTER") is find_router("llm")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("trainde", "ROUTERS has no entry 'trainde'; known: llm, rules, trained; did you mean 'trained'"),
        ("math:pi", "is a float, expected a function"),
        ("no_such_package:f", "cannot import"),
    ],
)
def test_names_that_lead_nowhere(name, told):
    with pytest.raises(ConfigError, match=told):
        find_router(name)
