"""What a function asks of a node: the translation, and whether a node could ever give it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raymodal.plan.resources import (
    ACCELERATOR_LABEL,
    ActorResources,
    NodeFacts,
    accepted_labels,
    choose_alternative,
    cut_to_machine,
    explain_misfit,
    fits_ever,
    resources_for,
)
from raymodal.spec.function import GpuRequest

MIB = 1 << 20
LAPTOP = NodeFacts("n1", cpus=4, memory_bytes=16_000 * MIB)
GPU_NODE = NodeFacts("n2", cpus=16, memory_bytes=64_000 * MIB, gpus=4, accelerator="A100")


def gpu(*texts: str) -> tuple[GpuRequest, ...]:
    return tuple(
        GpuRequest(type=text.partition(":")[0].upper(), count=int(text.partition(":")[2] or 1)) for text in texts
    )


def test_the_defaults_are_modals():
    resources = resources_for(None, None)
    assert resources == ActorResources(num_cpus=0.125)
    assert resources.actor_options() == {"num_cpus": 0.125, "num_gpus": 0}
    assert not resources.sets_omp_threads


def test_requests_go_to_ray_in_its_units():
    resources = resources_for(2.5, 1024)
    assert resources.actor_options() == {"num_cpus": 2.5, "num_gpus": 0, "memory": 1024 * MIB}
    assert resources.sets_omp_threads


def test_a_gpu_is_asked_for_by_the_nodes_label():
    options = resources_for(None, None, gpu("T4")).actor_options()
    assert options == {"num_cpus": 0.125, "num_gpus": 1, "label_selector": {ACCELERATOR_LABEL: "T4"}}


def test_any_gpu_has_no_label():
    assert resources_for(None, None, gpu("any:2")).actor_options() == {"num_cpus": 0.125, "num_gpus": 2}


def test_a_list_of_equal_counts_is_one_request_with_fallbacks():
    resources = resources_for(None, None, gpu("L4:2", "T4:2"))
    assert resources.others == ()
    assert resources.actor_options() == {
        "num_cpus": 0.125,
        "num_gpus": 2,
        "label_selector": {ACCELERATOR_LABEL: "L4"},
        "fallback_strategy": [{"label_selector": {ACCELERATOR_LABEL: "T4"}}],
    }


def test_a_list_of_different_counts_is_several_alternatives_in_order():
    resources = resources_for(None, None, gpu("H100", "A100:2", "any:4"))
    assert [one.num_gpus for one in resources.alternatives] == [1, 2, 4]
    assert [one.gpu for one in resources.alternatives] == ["H100", "A100:2", "ANY:4"]
    assert all(one.others == () for one in resources.alternatives)
    assert choose_alternative(resources.alternatives, [LAPTOP, GPU_NODE]) == 1


def test_any_after_a_named_type_is_an_alternative_of_its_own():
    resources = resources_for(None, None, gpu("H100", "any"))
    assert [one.accelerators for one in resources.alternatives] == [(("H100", "H200"),), ()]


def test_ignoring_gpus_leaves_the_rest():
    assert resources_for(1, 64, gpu("H100:8"), ignore_gpu=True) == resources_for(1, 64)


def test_sizes_of_the_a100():
    assert set(accepted_labels("a100")) == {"A100", "A100-40G", "A100-80G"}
    assert accepted_labels("A100-80GB") == ("A100-80G", "A100")
    assert "A100-80G" not in accepted_labels("A100-40GB")


def test_an_exclamation_mark_forbids_the_upgrade():
    assert accepted_labels("H100") == ("H100", "H200")
    assert accepted_labels("H100!") == ("H100",)


def test_types_that_modal_does_not_have_are_found_in_rays_spelling():
    assert accepted_labels("AMD-INSTINCT-MI300X-OAM") == ("AMD-Instinct-MI300X-OAM",)
    assert accepted_labels("v100") == ("V100",)


def test_a_misfit_names_function_request_nodes_and_way_out():
    resources = resources_for(1, 512, gpu("H100"))
    misfit = fits_ever(resources, [LAPTOP, LAPTOP])
    assert misfit is not None
    text = explain_misfit("embed", resources, misfit, [LAPTOP, LAPTOP])
    assert "'embed' asks for 1 CPU, 512 MiB of memory and gpu=H100" in text
    assert "there is: 4 CPU, 16000 MiB, no GPU)" in text
    assert "--gpu ignore" in text
    assert "\n" not in text


def test_the_kind_of_misfit():
    assert fits_ever(resources_for(99, None), [LAPTOP]).kind == "cpu"
    assert fits_ever(resources_for(None, 99_999), [LAPTOP]).kind == "memory"
    assert fits_ever(resources_for(None, None, gpu("any")), []).kind == "gpu"
    two = [NodeFacts("a", 1, 100 * MIB), NodeFacts("b", 8, 10 * MIB)]
    assert fits_ever(resources_for(4, 50), two).kind == "together"
    assert fits_ever(resources_for(4, 50), [*two, LAPTOP]) is None
    one_gpu = NodeFacts("c", 4, 10 * MIB, gpus=1, accelerator="T4")
    assert fits_ever(resources_for(None, None, gpu("T4:2")), [one_gpu]).kind == "gpu"


def test_a_cut_warns_and_never_touches_gpus():
    asked = resources_for(8, 99_999, gpu("H100", "A100:2"))
    changed, warning = cut_to_machine(asked, LAPTOP, "train")
    assert [(one.num_cpus, one.memory_bytes) for one in changed.alternatives] == [(4, LAPTOP.memory_bytes)] * 2
    assert [one.num_gpus for one in changed.alternatives] == [1, 2]
    assert "'train'" in warning
    assert "8 CPU to 4" in warning
    assert "99999 MiB of memory to 16000" in warning


TYPES = st.sampled_from(["T4", "L4", "A10G", "A100", "A100-40GB", "A100-80GB", "H100", "H100!", "B200", "ANY"])
GPUS = st.lists(st.builds(GpuRequest, type=TYPES, count=st.integers(1, 8)), max_size=5).map(tuple)
REQUESTS = st.builds(
    resources_for,
    st.none() | st.floats(0.01, 128),
    st.none() | st.integers(1, 1 << 20),
    GPUS,
)
LABELS = st.sampled_from([None, "T4", "L4", "A10G", "A100", "A100-40G", "A100-80G", "H100", "H200", "B200"])
NODES = st.lists(
    st.builds(
        NodeFacts,
        node_id=st.just("n"),
        cpus=st.floats(0, 128),
        memory_bytes=st.integers(0, 1 << 40),
        gpus=st.integers(0, 8),
        accelerator=LABELS,
    ),
    max_size=4,
)


@given(REQUESTS)
def test_alternatives_differ_only_in_gpus_and_are_valid_for_ray(resources):
    for one in resources.alternatives:
        assert (one.num_cpus, one.memory_bytes) == (resources.num_cpus, resources.memory_bytes)
        options = one.actor_options()
        assert ("fallback_strategy" in options) <= ("label_selector" in options)
        for fallback in options.get("fallback_strategy", []):
            assert set(fallback) == {"label_selector"}
            assert fallback["label_selector"]


@given(GPUS)
def test_every_gpu_of_a_list_is_in_exactly_one_alternative_in_order(gpus):
    resources = resources_for(None, None, gpus)
    if gpus:
        assert ", ".join(one.gpu for one in resources.alternatives) == ", ".join(map(str, gpus))
    else:
        assert resources.num_gpus == 0


@given(REQUESTS, NODES)
def test_what_fits_and_what_is_chosen_agree(resources, nodes):
    misfit = fits_ever(resources, nodes)
    assert (misfit is None) == (choose_alternative(resources.alternatives, nodes) is not None)
    if misfit is not None:
        text = explain_misfit("f", resources, misfit, nodes)
        assert "'f'" in text
        assert "\n" not in text


@given(REQUESTS, NODES, NODES)
def test_more_nodes_never_make_a_request_misfit(resources, nodes, more):
    if fits_ever(resources, nodes) is None:
        assert fits_ever(resources, nodes + more) is None


@given(REQUESTS, NODES.filter(bool))
def test_a_cut_request_fits_unless_it_wants_a_gpu_and_a_second_cut_changes_nothing(resources, nodes):
    changed, warning = cut_to_machine(resources, nodes[0])
    assert (warning is None) == (changed == resources)
    misfit = fits_ever(changed, nodes[:1])
    assert misfit is None or misfit.kind == "gpu"
    assert cut_to_machine(changed, nodes[0]) == (changed, None)
