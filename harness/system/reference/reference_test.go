package reference

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/faultline-mq/faultline/broker/wire"
	"github.com/faultline-mq/faultline/harness/environment/sim"
	"github.com/faultline-mq/faultline/harness/system"
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

func TestValidate(t *testing.T) {
	for _, tc := range []struct {
		scheme string
		set    map[string]string
		want   string
	}{
		{"isr", nil, ""},
		{"raft", nil, "known schemes: isr, single"},
		{"isr", map[string]string{"ack": "1"}, "known options: acks"},
		{"isr", map[string]string{"replication.factor": "4"}, "at most 3"},
		{"single", map[string]string{"min.insync.replicas": "2"}, "nothing could ever be written"},
	} {
		err := System{}.Validate(system.Spec{Scheme: tc.scheme, Nodes: three, Set: tc.set})
		if tc.want == "" {
			require.NoError(t, err)
			continue
		}
		require.ErrorContains(t, err, tc.want)
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
		cl := c.Client("c", -1)
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
				cl = c.Client("d", -1)
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
