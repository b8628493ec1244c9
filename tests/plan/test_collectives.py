import pytest

from hypereyes_jax.plan.collectives import collective_bytes

MESH = {"replica": 1, "fsdp": 4, "expert": 2, "tensor": 1}
# As XLA prints it: a loop of 3 trips around an all-gather; an all-reduce, an asynchronous start, a permute outside.
HLO = """\
HloModule step

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %ag = bf16[16,8]{1,0} all-gather(%x), channel_id=1, replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}, metadata={}
  ROOT %t = (s32[], f32[8]) tuple(%i, %y)
}

%condition (p: (s32[], f32[8])) -> pred[] {
  ROOT %lt = pred[] compare(%i, %n), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %s = f32[] add(%a, %b)
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %w = (s32[], f32[8]) while(%t0), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %ar = f32[10]{0} all-reduce(%z), replica_groups={{0,1},{2,3},{4,5},{6,7}}, to_apply=%add
  %ags = (f32[4]{0}, f32[32]{0}) all-gather-start(%q), replica_groups=[1,8]<=[8], dimensions={0}
  %cp = f32[6]{0} collective-permute(%r), source_target_pairs={{1,1},{0,2},{2,0}}
  ROOT %rs = f32[5]{0} reduce-scatter(%u), replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%add
}
"""


def test_bytes_are_counted_by_axis_kind_and_trip():
    sent = collective_bytes(HLO, MESH)
    assert sent["fsdp"]["all-gather"] == 3 * 16 * 8 * 2 * 3 / 4
    assert sent["expert"]["all-reduce"] == 2 * 10 * 4 * 1 / 2
    assert sent["fsdp+expert"]["all-gather"] == 32 * 4 * 7 / 8
    assert sent["fsdp"]["collective-permute"] == 6 * 4
    assert sent["expert"]["reduce-scatter"] == 5 * 4


@pytest.mark.parametrize(
    ("groups", "axes", "size"),
    [
        ("mesh['axis_0'=4,'axis_1'=2] {'axis_0'}", "fsdp", 4),
        ("mesh['axis_0'=4,'axis_1'=2,'axis_2'=1] {'axis_1'}", "expert", 2),
        ("mesh['axis_0'=1,'axis_1'=8] {'axis_1'}", "fsdp+expert", 8),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_0'}", "expert", 2),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([4,2]T(1,0)) {'axis_1'}", "fsdp", 4),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=(0,2,4,6,1,3,5,7) {'axis_1'}", "fsdp", 4),
        ("mesh['axis_0'=2,'axis_1'=4], device_ids=([8]) {'axis_0','axis_1'}", "fsdp+expert", 8),
        ("mesh['axis_0'=8] {'axis_0':(4)2}", "expert", 2),  # the last factor 2 of the eight
        ("mesh['axis_0'=8] {'axis_0':(1)2}", "fsdp", 2),  # the first
        ("{}", "fsdp+expert", 8),
    ],
)
def test_groups_of_a_mesh_are_read(groups, axes, size):
    text = HLO.replace("replica_groups=[2,4]<=[4,2]T(1,0)", f"replica_groups={groups}").replace(KNOWN, "")
    sent = collective_bytes(text, MESH)[axes]["all-gather"]
    other = 32 * 4 * 7 / 8 if axes == "fsdp+expert" else 0.0  # that of the asynchronous start
    assert sent - other == 16 * 8 * 2 * (size - 1) / size


def test_groups_that_can_not_be_read_are_refused():
    with pytest.raises(ValueError, match="is not known of this collective: %ag = "):
        collective_bytes(HLO.replace("[2,4]<=[4,2]T(1,0)", "new{0,1}"), MESH)


KNOWN = ', backend_config={"known_trip_count":{"n":"3"}}'


def test_a_loop_of_unknown_length_takes_the_trips_that_its_name_expects():
    named = HLO.replace(KNOWN, ', metadata={op_name="jit(f)/expected_trips_9.00/while/expected_trips_5.00/while"}')
    assert collective_bytes(named, MESH)["fsdp"]["all-gather"] == 5 * 16 * 8 * 2 * 3 / 4


def test_a_loop_takes_the_trips_that_its_condition_compares_with():
    # as TPU programs have it, where an outer loop's name must not be taken for the inner one's
    compared = HLO.replace(KNOWN, ', metadata={op_name="jit(f)/expected_trips_9.00/while/body/while"}')
    compared = compared.replace(
        "  ROOT %lt = pred[] compare(%i, %n), direction=LT",
        "  %n.1 = s32[]{:T(128)} constant(7)\n"
        "  ROOT %lt = pred[]{:T(512)} compare(s32[]{:T(128)} %i, s32[]{:T(128)} %n.1), direction=LT",
    )
    assert collective_bytes(compared, MESH)["fsdp"]["all-gather"] == 7 * 16 * 8 * 2 * 3 / 4
    assert collective_bytes(compared.replace("s32[]{:T(128)} %", "%"), MESH)["fsdp"]["all-gather"] == 7 * 192


def test_an_asynchronous_start_counts_its_results_only():
    results = "((f32[8]{0}, f32[4]{0}), (f32[4]{0}, f32[2]{0}))"
    started = HLO.replace("f32[5]{0} reduce-scatter(%u)", f"{results} reduce-scatter-start(%a, %b)")
    assert collective_bytes(started, MESH)["expert"]["reduce-scatter"] == (4 + 2) * 4
