package reference

import (
	"context"
	"errors"
	"math/rand/v2"
	"path"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker/mutant"
	"github.com/faultline-mq/faultline/broker/storage"
	"github.com/faultline-mq/faultline/broker/vfs"
	"github.com/faultline-mq/faultline/broker/wire"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/system"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/workloads"

	"github.com/faultline-mq/faultline/checker/history"
)

var three = []string{"n1", "n2", "n3"}

func TestContract(t *testing.T) {
	for _, tc := range []struct {
		name         string
		scheme       string
		set          map[string]string
		faults       []string
		acknowledged bool
		committed    bool
	}{
		{"defaults", "isr", nil, []string{"partition"}, true, true},
		{"acks=1", "isr", map[string]string{"acks": "1"}, nil, false, true},
		{"acks=0", "isr", map[string]string{"acks": "0"}, nil, false, true},
		{"minimum one", "isr", map[string]string{"min.insync.replicas": "1"}, nil, false, false},
		{"unclean", "isr", map[string]string{"unclean.leader.election.enable": "true"}, nil, false, false},
		{"power, synced", "isr", nil, []string{"power"}, true, true},
		{"power, not synced", "isr", map[string]string{"fsync": "never"}, []string{"power"}, false, false},
		{"not synced, no power loss", "isr", map[string]string{"fsync": "never"}, []string{"kill"}, true, true},
		{"single", "single", nil, []string{"kill"}, true, true},
		{"single, power, not synced", "single", map[string]string{"fsync": "interval"}, []string{"power"}, false, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := System{}.Contract(system.Spec{Scheme: tc.scheme, Nodes: three, Set: tc.set, Faults: tc.faults, Expect: "survive"})
			require.Equal(t, tc.acknowledged, c.Acknowledged)
			require.Equal(t, tc.committed, c.CommittedReads)
			require.Equal(t, tc.acknowledged, c.Linearizable)
			require.Equal(t, "survive", c.Expect)
		})
	}
}

func TestContractOfLostAndDamagedDisks(t *testing.T) {
	at := func(id int, fault, targets string, from, until time.Duration) nemesis.Step {
		s := nemesis.Step{ID: id, Fault: fault, Targets: targets, At: from * time.Second, Until: until * time.Second}
		if fault == "corrupt-file" {
			s.Shape = nemesis.BitFlip
		}
		if name, shape, ok := strings.Cut(fault, ":"); ok {
			s.Fault, s.Shape = name, nemesis.Shape(shape)
		}
		return s
	}
	restart := func(how nemesis.Shape, targets string) nemesis.Step {
		s := at(0, "restart", targets, 5, 15)
		s.Shape = how
		return s
	}
	when := func(s nemesis.Step) nemesis.Step {
		s.When = nemesis.LeaderChange
		return s
	}
	five := []string{"n1", "n2", "n3", "n4", "n5"}
	for _, tc := range []struct {
		name   string
		scheme string
		nodes  []string
		set    map[string]string
		steps  []nemesis.Step
		want   bool
	}{
		{"one wiped", "isr", three, nil, []nemesis.Step{at(0, "wipe", "one", 5, 15)}, true},
		{"one damaged", "isr", three, nil, []nemesis.Step{at(0, "corrupt-file", "leader", 5, 15)}, true},
		{"two wiped", "isr", three, nil, []nemesis.Step{at(0, "wipe", "n1,n2", 5, 15)}, false},
		{"all damaged", "isr", three, nil, []nemesis.Step{at(0, "corrupt-file", "all", 5, 15)}, false},
		{"two of five wiped", "isr", five, nil, []nemesis.Step{at(0, "wipe", "minority", 5, 15)}, false},
		{"two of five wiped, three in sync", "isr", five, map[string]string{"min.insync.replicas": "3"}, []nemesis.Step{at(0, "wipe", "minority", 5, 15)}, true},
		{"one after another", "isr", three, nil, []nemesis.Step{at(0, "wipe", "n1", 5, 15), at(1, "wipe", "n2", 18, 28)}, true},
		{"one right after another", "isr", three, nil, []nemesis.Step{at(0, "wipe", "n1", 5, 15), at(1, "wipe", "n2", 17, 28)}, false},
		{"wiped while others are dead", "isr", three, nil, []nemesis.Step{at(0, "kill", "n2,n3", 1, 20), at(1, "wipe", "n1", 5, 15)}, false},
		{"killed long after", "isr", three, nil, []nemesis.Step{at(0, "wipe", "n1", 5, 15), at(1, "kill", "all", 19, 30)}, true},
		{"wiped with a wrong clock", "isr", three, nil, []nemesis.Step{at(0, "clock", "all", 1, 20), at(1, "wipe", "n1", 5, 15)}, true},
		{"minimum one", "isr", three, map[string]string{"min.insync.replicas": "1"}, []nemesis.Step{at(0, "wipe", "n1", 5, 15)}, false},
		{"put back to a copy", "isr", three, nil, []nemesis.Step{at(0, "corrupt-file:stale-restore", "follower", 5, 15)}, true},
		{"two put back", "isr", three, nil, []nemesis.Step{at(0, "corrupt-file:stale-restore", "n1,n2", 5, 15)}, false},
		{"replaced", "isr", three, nil, []nemesis.Step{at(0, "membership:replace", "n1", 5, 15)}, true},
		{"replaced while another is dead", "isr", three, nil, []nemesis.Step{at(0, "membership:replace", "n1", 5, 15), at(1, "kill", "n2", 4, 12)}, false},
		{"removed while another is dead", "isr", three, nil, []nemesis.Step{at(0, "membership:remove", "n1", 5, 15), at(1, "kill", "n2", 7, 12)}, true},
		{"one without power, not synced", "isr", three, map[string]string{"fsync": "never"}, []nemesis.Step{at(0, "power", "n1", 5, 15), at(1, "kill", "all", 20, 30)}, true},
		{"two without power, not synced", "isr", three, map[string]string{"fsync": "never"}, []nemesis.Step{at(0, "power", "n1,n2", 5, 15)}, false},
		{"all without power, synced", "isr", three, nil, []nemesis.Step{at(0, "power", "all", 5, 15)}, true},
		{"without power while others are dead, not synced", "isr", three, map[string]string{"fsync": "interval"}, []nemesis.Step{at(0, "kill", "n2", 1, 20), at(1, "power", "n1", 5, 15)}, false},
		{"restarted, not synced", "isr", three, map[string]string{"fsync": "never"}, []nemesis.Step{restart("kill", "all")}, true},
		{"restarted without power, synced", "isr", three, nil, []nemesis.Step{restart("power", "all")}, true},
		{"two restarted without power, not synced", "isr", three, map[string]string{"fsync": "never"}, []nemesis.Step{restart("power", "n1,n2")}, false},
		{"two restarted with empty disks", "isr", three, nil, []nemesis.Step{restart("wipe", "n1,n2")}, false},
		{"killed at an event before", "isr", three, nil, []nemesis.Step{when(at(0, "kill", "n2", 5, 10)), at(1, "wipe", "n1", 17, 25)}, false},
		{"killed at an event long before", "isr", three, nil, []nemesis.Step{when(at(0, "kill", "n2", 5, 10)), at(1, "wipe", "n1", 18, 25)}, true},
		{"wiped while another is cut off", "isr", three, nil, []nemesis.Step{at(0, "partition", "n2", 1, 20), at(1, "wipe", "n1", 5, 15)}, true},
		{"wiped while another is cut off, no eligible leaders", "isr", three, map[string]string{"eligible.leader.replicas.version": "0"}, []nemesis.Step{at(0, "partition", "n2", 1, 20), at(1, "wipe", "n1", 5, 15)}, false},
		{"wiped while another is cut off, minimum one", "isr", three, map[string]string{"min.insync.replicas": "1"}, []nemesis.Step{at(0, "partition", "n2", 1, 20), at(1, "wipe", "n1", 5, 15)}, false},
		{"wiped among what ends no process", "isr", three, nil, []nemesis.Step{at(0, "partition", "", 1, 4), at(1, "delay", "all", 1, 30), at(2, "wipe", "n1", 5, 15), at(3, "disk-slow", "n2", 6, 12), at(4, "leadership:flap", "leader", 16, 20)}, true},
		{"one wiped, then another, somebody cut off all the while", "isr", three, nil, []nemesis.Step{at(0, "partition", "n3", 1, 30), at(1, "wipe", "n1", 5, 10), at(2, "wipe", "n2", 18, 28)}, false},
		{"one wiped, then another, each with somebody cut off", "isr", three, nil, []nemesis.Step{at(0, "partition", "n3", 1, 11), at(1, "wipe", "n1", 5, 10), at(2, "wipe", "n2", 18, 28), at(3, "pause", "n1", 16, 20)}, true},
		{"one wiped twice, somebody cut off", "isr", three, nil, []nemesis.Step{at(0, "partition", "n3", 1, 30), at(1, "wipe", "n1", 5, 10), at(2, "wipe", "n1", 12, 15)}, false},
		{"wiped and killed around a cut", "isr", three, nil, []nemesis.Step{at(0, "kill", "n2", 1, 3), at(1, "partition", "n3", 4, 12), at(2, "wipe", "n1", 10, 15)}, false},
		{"wiped around a cut, killed long before", "isr", three, nil, []nemesis.Step{at(0, "kill", "all", 1, 3), at(1, "partition", "n3", 7, 12), at(2, "wipe", "n1", 10, 15)}, true},
		{"wiped and killed after a cut", "isr", three, nil, []nemesis.Step{at(0, "partition", "n3", 4, 12), at(1, "wipe", "n1", 10, 15), at(2, "kill", "n2", 17, 20)}, false},
		{"wiped while another stops", "isr", three, nil, []nemesis.Step{at(0, "stop", "n2", 1, 10), at(1, "wipe", "n1", 5, 15)}, false},
		{"wiped while another's disk is full", "isr", three, nil, []nemesis.Step{at(0, "disk-full", "n2", 1, 10), at(1, "wipe", "n1", 5, 15)}, false},
		{"wiped and killed, three in sync", "isr", five, map[string]string{"min.insync.replicas": "3", "replication.factor": "5"}, []nemesis.Step{at(0, "kill", "n2", 1, 10), at(1, "wipe", "n1", 5, 15), at(2, "partition", "n3", 2, 12)}, true},
		{"wiped and two killed, three in sync", "isr", five, map[string]string{"min.insync.replicas": "3", "replication.factor": "5"}, []nemesis.Step{at(0, "kill", "n2,n4", 1, 10), at(1, "wipe", "n1", 5, 15), at(2, "partition", "n3", 2, 12)}, false},
		{"without power and cut off, not synced", "isr", three, map[string]string{"fsync": "never"}, []nemesis.Step{at(0, "partition", "n1", 1, 20), at(1, "power", "n1", 5, 15)}, true},
		{"damaged while another is paused", "isr", three, nil, []nemesis.Step{at(0, "pause", "n2", 1, 20), at(1, "corrupt-file", "n1", 5, 15)}, true},
		{"wiped after all were without power", "isr", three, nil, []nemesis.Step{at(0, "power", "all", 1, 5), at(1, "wipe", "n1", 9, 15)}, true},
		{"wiped after all were without power, the quorum elects slowly", "isr", three, map[string]string{"quorum.tick.ms": "200"}, []nemesis.Step{at(0, "power", "all", 1, 5), at(1, "wipe", "n1", 9, 15)}, false},
		{"one copy", "single", three, nil, []nemesis.Step{at(0, "wipe", "n1", 5, 15)}, false},
		{"full disk, one copy", "single", three, nil, []nemesis.Step{at(0, "disk-full", "n1", 5, 15)}, true},
		{"failing disks", "isr", three, nil, []nemesis.Step{at(0, "disk-error", "all", 5, 15)}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := System{}.Contract(system.Spec{Scheme: tc.scheme, Nodes: tc.nodes, Set: tc.set, Steps: tc.steps, Expect: "declared"})
			require.Equal(t, tc.want, c.Acknowledged)
			require.Equal(t, tc.want, c.CommittedReads)
			require.Equal(t, tc.want, c.Linearizable)
			require.Equal(t, tc.want, c.Monotonic)
			require.Equal(t, tc.want, c.Recovers)
		})
	}
	require.False(t, System{}.Contract(system.Spec{Scheme: "single", Nodes: three, Faults: []string{"corrupt-file:truncate"}}).Acknowledged)
}

func TestVolume(t *testing.T) {
	v := newVolume("n1").(*volume)
	write := func(m *vfs.Mem, name, text string) error {
		if err := m.MkdirAll(path.Dir(name)); err != nil {
			return err
		}
		f, err := m.OpenFile(name, true)
		if err != nil {
			return err
		}
		size, err := f.Size()
		require.NoError(t, err)
		_, err = f.WriteAt([]byte(text), size)
		return errors.Join(err, f.Sync(), f.Close())
	}
	const segment = storage.LogsDir + "/t-0.1/00000000000000000000.log"
	require.NoError(t, write(v.data, segment, "records"))
	require.NoError(t, write(v.data, storage.LogsDir+"/t-0.1/state", "state"))
	require.NoError(t, write(v.meta, storage.MetaDir+"/1", "quorum"))
	require.EqualValues(t, 12, v.Stored())
	files, err := v.Files()
	require.NoError(t, err)
	require.Equal(t, []nemesis.StoredFile{{Name: segment, Size: 7}}, files)

	before, err := v.FileDigest(segment, 7)
	require.NoError(t, err)
	all := v.Digest()
	require.NoError(t, v.Flip(segment, 2, 0))
	after, err := v.FileDigest(segment, 7)
	require.NoError(t, err)
	require.NotEqual(t, before, after)
	require.NotEqual(t, all, v.Digest())
	require.NoError(t, v.Cut(segment, 2))
	prefix, err := v.FileDigest(segment, 2)
	require.NoError(t, err)
	after, err = v.FileDigest(segment, 7)
	require.NoError(t, err)
	require.Equal(t, prefix, after)
	none, err := v.FileDigest("none", 7)
	require.NoError(t, err)
	require.Empty(t, none)

	require.NoError(t, v.Probe())
	v.Fill(true)
	require.ErrorIs(t, v.Probe(), syscall.ENOSPC)
	require.ErrorIs(t, write(v.data, segment, "more"), syscall.ENOSPC)
	require.NoError(t, write(v.meta, storage.MetaDir+"/1", "more"), "the metadata log has its own disk")
	v.Fill(false)
	v.Break(true)
	require.ErrorIs(t, v.Probe(), syscall.EIO)
	require.ErrorIs(t, write(v.data, segment, "more"), syscall.EIO)
	require.NoError(t, write(v.meta, storage.MetaDir+"/1", "more"))
	_, err = vfs.ReadFile(v.data, segment)
	require.NoError(t, err, "what is there can be read")
	v.Break(false)
	require.NoError(t, v.Probe())
	exists, err := vfs.Exists(v.data, probeFile)
	require.NoError(t, err)
	require.False(t, exists)

	// A copy brings back everything, and takes away what came since.
	require.NoError(t, v.Copy())
	copied, quorum := v.DataDigest(), v.meta.Digest()
	require.NoError(t, write(v.data, segment, "more"))
	require.NoError(t, write(v.data, storage.LogsDir+"/u-0.2/state", "new"))
	require.NotEqual(t, copied, v.DataDigest())
	require.NoError(t, v.PutBack())
	require.Equal(t, copied, v.DataDigest())
	require.Equal(t, quorum, v.meta.Digest())
	v.data.PowerLoss(rand.New(rand.NewPCG(1, 1)))
	require.Equal(t, copied, v.DataDigest(), "it is durable")
	require.ErrorContains(t, newVolume("n2").PutBack(), "there is no copy")

	meta := v.meta.Digest()
	v.Wipe()
	require.Zero(t, v.Stored())
	require.Equal(t, meta, v.meta.Digest())
	v.Fill(true)
	require.ErrorIs(t, v.Probe(), syscall.ENOSPC, "an empty disk can be full too")
	v.Fill(false)

	// A new node begins with nothing but its identity.
	for _, bad := range []string{"", "0", "n1", "281474976710656"} {
		require.ErrorContains(t, v.Replace(bad), "identity")
	}
	require.NoError(t, v.Replace("77"))
	_, rec, err := storage.Open(v.data, v.meta, 1<<20, mutant.Set{})
	require.NoError(t, err)
	require.EqualValues(t, 77, rec.Directory)
	require.Empty(t, rec.Lanes)
	require.Empty(t, rec.Meta)
	require.NoError(t, storage.Format(v.meta, 77), "the same again is no harm")
	require.ErrorContains(t, storage.Format(v.meta, 78), "give the new node an empty one")
	require.ErrorContains(t, storage.Format(newVolume("n2").(*volume).opened(t), 78), "give the new node an empty one")
}

// opened gives the metadata disk of a node that has begun with the cluster.
func (v *volume) opened(t *testing.T) vfs.FS {
	_, rec, err := storage.Open(v.data, v.meta, 1<<20, mutant.Set{})
	require.NoError(t, err)
	require.Zero(t, rec.Directory)
	return v.meta
}

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		scheme string
		set    map[string]string
		want   string
	}{
		{"isr", nil, ""},
		{"raft", nil, "known schemes: "},
		{"isr", map[string]string{"ack": "1"}, `unknown option "ack"; known options: `},
		{"isr", map[string]string{"replication.factor": "4"}, "at most 3"},
		{"single", map[string]string{"min.insync.replicas": "2"}, "nothing could ever be written"},
		{"isr", map[string]string{"min.insync.replicas": "3"}, ""},
	} {
		err := System{}.Validate(system.Spec{Scheme: tc.scheme, Nodes: three, Set: tc.set})
		if tc.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, tc.want)
	}
	all := map[string]string{"min.insync.replicas": "3"}
	for _, spec := range []system.Spec{
		{Scheme: "isr", Nodes: three, Set: all, Faults: []string{"kill", "membership"}},
		{Scheme: "isr", Nodes: three, Set: all, Steps: []nemesis.Step{{Fault: "membership", Shape: nemesis.RemoveNode}}},
	} {
		require.ErrorContains(t, System{}.Validate(spec), "membership:remove would leave too few")
		spec.Nodes = []string{"n1", "n2", "n3", "n4"}
		require.NoError(t, System{}.Validate(spec))
	}
}

// codec sends everything through its encoding and back, as sockets would.
func codec(t *testing.T) func(any) any {
	return func(v any) any {
		switch m := v.(type) {
		case kmsg.Request:
			back := kmsg.RequestForKey(m.Key())
			back.SetVersion(m.GetVersion())
			require.NoError(t, back.ReadFrom(m.AppendTo(nil)))
			return back
		case kmsg.Response:
			back := kmsg.ResponseForKey(m.Key())
			back.SetVersion(m.GetVersion())
			require.NoError(t, back.ReadFrom(m.AppendTo(nil)))
			return back
		}
		b, err := wire.Encode(v)
		require.NoError(t, err)
		back, err := wire.Decode(b)
		require.NoError(t, err)
		return back
	}
}

// scripted runs a small script on a simulated cluster and returns its outcomes.
func scripted(t *testing.T, change func(*sim.Options)) ([]history.Record, string) {
	spec := system.Spec{Scheme: "isr", RunID: "r", Nodes: three, Seed: 7}
	opts, err := System{}.Sim(spec)
	require.NoError(t, err)
	change(&opts)
	w, err := sim.New(opts)
	require.NoError(t, err)
	restore, err := w.InstallRandReader()
	require.NoError(t, err)
	defer restore()
	var records []history.Record
	ctx := context.Background()
	require.NoError(t, w.Run(ctx, func() {
		require.NoError(t, w.Up(ctx))
		c := System{}.ConnectSim(spec, w)
		require.NoError(t, c.Setup(ctx))
		cl := c.Client(workloads.ClientSpec{Name: "c", Pinned: -1})
		for seq := int64(1); seq <= 50; seq++ {
			op := &workloads.Op{Kind: history.Send, Value: history.MakeValue(1, seq), Size: 100}
			for cl.Route(ctx, op); ; cl.Route(ctx, op) {
				outcome := cl.Do(ctx, op).Outcome
				if outcome == history.OK {
					break
				}
				// Failed for certain: nothing was written, the same value goes again.
				require.Equal(t, history.Failed, outcome)
				require.NoError(t, w.Sleep(ctx, 50*time.Millisecond))
			}
			if seq == 25 {
				leader, _, err := c.Leader(ctx, "t-0")
				require.NoError(t, err)
				require.NoError(t, w.Processes().Kill(ctx, leader))
				for { // until another one leads
					now, _, err := c.Leader(ctx, "t-0")
					if err == nil && now != leader {
						break
					}
					require.NoError(t, w.Sleep(ctx, 100*time.Millisecond))
				}
				require.NoError(t, w.Processes().Start(ctx, leader))
				cl = c.Client(workloads.ClientSpec{Name: "d", Pinned: -1})
			}
		}
		drains, replicas := c.Drain(ctx, time.Minute)
		for _, d := range drains {
			require.True(t, d.Complete, "%+v", d)
		}
		records = replicas[0].Records
		require.NoError(t, w.Down(ctx))
	}))
	require.Empty(t, w.Crashes())
	return records, w.TraceDigest()
}

// Structures that pass without encoding, and through it, must mean the same.
func TestEncodingChangesNothing(t *testing.T) {
	plain, digest := scripted(t, func(*sim.Options) {})
	coded, codedDigest := scripted(t, func(o *sim.Options) { o.Codec = codec(t) })
	require.Len(t, plain, 51)
	require.Equal(t, plain, coded)
	require.Equal(t, digest, codedDigest)
}

func TestCanariesProveAPowerLoss(t *testing.T) {
	for seed := range uint64(50) {
		v := newVolume("n1")
		require.NoError(t, v.WriteCanary("kept", true))
		require.NoError(t, v.WriteCanary("gone", false))
		for _, name := range []string{"kept", "gone"} {
			there, err := v.HasCanary(name)
			require.NoError(t, err)
			require.True(t, there)
		}
		v.PowerLoss(rand.New(rand.NewPCG(seed, 1)))
		there, err := v.HasCanary("kept")
		require.NoError(t, err)
		require.True(t, there)
		there, err = v.HasCanary("gone")
		require.NoError(t, err)
		require.False(t, there, "seed %d", seed)
	}
}
