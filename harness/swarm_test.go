package harness

import (
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/nemesis"
)

// swarmBase is what `faultline hunt` begins from.
func swarmBase() Plan {
	p := DefaultPlan()
	p.Environment = "sim"
	return p
}

// TestSwarmPlan draws many plans: each is whole and promises that acknowledged
// messages survive, and together they are as different as a swarm must be.
func TestSwarmPlan(t *testing.T) {
	plainly(t)
	const seeds = 400
	seen := map[string]int{}
	options := map[string]map[string]bool{}
	sys, err := LookupSystem("reference")
	require.NoError(t, err)
	for seed := range uint64(seeds) {
		p, err := SwarmPlan(swarmBase(), seed)
		require.NoError(t, err, "seed %d", seed)
		again, err := SwarmPlan(swarmBase(), seed)
		require.NoError(t, err)
		require.Equal(t, p, again, "seed %d", seed)
		resolved, err := p.Resolve()
		require.NoError(t, err)
		require.Equal(t, p, resolved, "seed %d: a drawn plan is resolved", seed)

		require.True(t, sys.Contract(p.spec("")).Acknowledged, "seed %d promises nothing: %v", seed, p.Options)
		require.GreaterOrEqual(t, p.Time, MinVirtual)
		require.GreaterOrEqual(t, len(p.Steps), MinProven, "seed %d", seed)
		require.LessOrEqual(t, 4*MinAcknowledged, int(p.Rate*p.Time.Seconds()*2), "seed %d sends too little", seed)
		require.LessOrEqual(t, p.Steps[len(p.Steps)-1].Until, p.Phases.Fault)
		for i, s := range p.Steps {
			seen[s.Name()]++
			for _, o := range p.Steps[:i] {
				if s.At < o.Until {
					seen["overlap of "+o.Fault+" and "+s.Fault]++
				}
			}
		}
		for i, s := range p.Steps {
			seen["port "+string(s.Port)]++
			if strings.HasPrefix(s.Targets, "@") {
				seen[s.Fault+" of whoever is cut off"]++
			}
			if s.When != "" {
				seen["when "+string(s.When)]++
				seen[s.Fault+" at an event"]++
			}
			if s.Fault == "power" && p.Options["fsync"] != "always" {
				seen["power, not synced"]++
				n, err := nemesis.CountTargets(s.Targets, p.NodeNames())
				require.NoError(t, err)
				least, err := strconv.Atoi(p.Options["min.insync.replicas"])
				require.NoError(t, err)
				require.Less(t, n, least, "seed %d", seed)
			}
			require.Equal(t, i, s.ID)
		}
		if p.Loyal > 0 {
			seen["loyal"]++
		}
		if p.Idempotent > 0 {
			seen["idempotent"]++
		}
		if !slices.ContainsFunc(p.Faults, func(f string) bool { return strings.HasPrefix(f, "partition") }) {
			seen["no partition"]++
		}
		seen[p.Scheme+" of "+string('0'+rune(p.Nodes))]++
		for name, v := range p.Options {
			if options[name] == nil {
				options[name] = map[string]bool{}
			}
			options[name][v] = true
		}
	}
	for _, name := range []string{
		"kill", "pause", "stop", "power", "no partition", "rolling-restart", "restart:kill", "restart:power", "restart:wipe", "wipe", "corrupt-file:bit-flip",
		"corrupt-file:truncate", "disk-slow", "delay", "loss", "reset", "clock:jump", "clock:drift", "disk-full", "disk-error", "power, not synced", "loyal", "idempotent",
		"when leader-change", "when follower-change", "when isr-shrink", "when isr-expand", "when truncation", "when controller-change", "when start",
		"kill at an event", "pause at an event", "partition at an event", "stop at an event", "restart at an event", "overlap of delay and kill", "overlap of disk-slow and partition",
		"port peer", "port quorum", "kill of whoever is cut off", "wipe of whoever is cut off", "isr of 3", "isr of 5",
		"partition:isolate-one", "partition:isolate-leader", "partition:one-way-in", "partition:one-way-out", "partition:ring", "partition:bridge",
		"partition:halves", "partition:majority", "partition:primaries", "partition:client",
		"overlap of partition and kill", "overlap of kill and partition", "overlap of kill and pause", "overlap of partition and partition",
	} {
		require.Positive(t, seen[name], name)
	}
	for _, name := range []string{
		"partitions", "request.timeout.ms", "broker.session.timeout.ms", "leader.rebalance.interval.ms", "quorum.tick.ms", "segment.bytes", "fsync",
		"replica.lag.time.max.ms", "replica.fetch.max.bytes", "replica.fetch.wait.max.ms", "replication.factor", "min.insync.replicas",
	} {
		require.Greater(t, len(options[name]), 1, "option %s is always the same", name)
	}
	require.Equal(t, map[string]bool{"all": true}, options["acks"])
	require.Equal(t, map[string]bool{"false": true}, options["unclean.leader.election.enable"])
}

// TestSwarmFixed: what the user fixed stays as it is.
func TestSwarmFixed(t *testing.T) {
	base := swarmBase()
	base.Nodes, base.Clients, base.Rate, base.Size, base.Time, base.Faults = 4, 3, 77, 99, 90*time.Second, []string{"kill"}
	base.Options = map[string]string{"acks": "1", "partitions": "5", "fsync": "never"}
	s := Swarm{Base: base, Fixed: map[string]bool{DimNodes: true, DimClients: true, DimRate: true, DimSize: true, DimTime: true, DimFaults: true}}
	lags := map[string]bool{}
	for seed := range uint64(30) {
		p, err := s.Plan(seed)
		require.NoError(t, err)
		require.Equal(t, []any{4, 3, 77.0, 99, 90 * time.Second, []string{"kill"}}, []any{p.Nodes, p.Clients, p.Rate, p.Size, p.Time, p.Faults})
		require.Equal(t, []string{"1", "5", "never"}, []string{p.Options["acks"], p.Options["partitions"], p.Options["fsync"]})
		for _, step := range p.Steps {
			require.Equal(t, "kill", step.Fault)
		}
		lags[p.Options["replica.lag.time.max.ms"]] = true
	}
	require.Greater(t, len(lags), 1, "what was not fixed is drawn")
	require.Equal(t, map[string]string{"acks": "1", "partitions": "5", "fsync": "never"}, base.Options)

	s.Fixed[DimTargets], s.Base.Targets = true, "leader"
	p, err := s.Plan(1)
	require.NoError(t, err)
	for _, step := range p.Steps {
		require.Equal(t, "leader", step.Targets)
	}
	s.Base.Nodes = 0
	_, err = s.Plan(1)
	require.ErrorIs(t, err, ErrBadPlan)
}

// TestSwarmPromisingNothing: what a configuration loses anyway changes no step into
// one that cannot be.
func TestSwarmPromisingNothing(t *testing.T) {
	base := swarmBase()
	base.Options = map[string]string{"acks": "1"}
	for seed := range uint64(100) {
		_, err := SwarmPlan(base, seed)
		require.NoError(t, err, "seed %d", seed)
	}
}

// TestSwarmSingle draws for a scheme without replicas.
func TestSwarmSingle(t *testing.T) {
	base := swarmBase()
	base.Scheme = "single"
	for seed := range uint64(30) {
		_, err := SwarmPlan(base, seed)
		require.NoError(t, err)
	}
}

// TestSwarmOfEveryScheme: of each scheme its own options are drawn, every value of them,
// and what is drawn is promised to survive.
func TestSwarmOfEveryScheme(t *testing.T) {
	plainly(t)
	sys, err := LookupSystem(swarmBase().System)
	require.NoError(t, err)
	for _, scheme := range sys.Schemes() {
		t.Run(scheme.Name, func(t *testing.T) {
			base := swarmBase()
			base.Scheme = scheme.Name
			drawn, promised := map[string]bool{}, 0
			for seed := range uint64(150) {
				p, err := SwarmPlan(base, seed)
				require.NoError(t, err, "seed %d", seed)
				if promises(p) {
					promised++
				}
				for _, o := range scheme.Options {
					drawn[o.Name+"="+p.Options[o.Name]] = true
				}
			}
			require.Greater(t, promised, 120)
			for _, o := range scheme.Options {
				if _, fixed := scheme.Hunted[o.Name]; fixed {
					continue
				}
				for _, value := range o.Draw {
					require.Contains(t, drawn, o.Name+"="+value)
				}
			}
		})
	}
	base := swarmBase()
	base.Scheme = "nosuch"
	_, err = SwarmPlan(base, 1)
	require.ErrorIs(t, err, ErrBadPlan)
	require.ErrorContains(t, err, "known schemes: ")
}

// TestSwarmEstrange: the leader that stops to hear the quorum is another node than the
// replica that comes back, both at the same event, and all of it is promised to survive.
func TestSwarmEstrange(t *testing.T) {
	for _, scheme := range []string{"isr", "combined"} {
		base := swarmBase()
		base.Scheme = scheme
		for seed := range uint64(20) {
			p, err := Swarm{Base: base, Estrange: true}.Plan(seed)
			require.NoError(t, err, "seed %d", seed)
			require.True(t, promises(p))
			require.Zero(t, len(p.Steps)%3)
			for i := 0; i < len(p.Steps); i += 3 {
				kill, deaf, cut := p.Steps[i], p.Steps[i+1], p.Steps[i+2]
				require.Equal(t, []string{"kill", "partition:one-way-in", "partition:isolate-one"}, []string{kill.Name(), deaf.Name(), cut.Name()})
				require.Equal(t, kill.Targets, cut.Targets)
				require.NotEqual(t, kill.Targets, deaf.Targets)
				require.Equal(t, kill.Until, deaf.At)
				require.Equal(t, kill.Until, cut.At)
				require.GreaterOrEqual(t, cut.After, deaf.After)
				require.Equal(t, []nemesis.Port{nemesis.QuorumPort, nemesis.PeerPort}, []nemesis.Port{deaf.Port, cut.Port})
			}
		}
	}
	base := swarmBase()
	base.Scheme = "multimaster"
	p, err := Swarm{Base: base, Estrange: true}.Plan(1)
	require.NoError(t, err)
	require.NotEqual(t, []string{"kill", "partition:one-way-in", "partition:isolate-one"}, p.Faults, "no quorum decides about its replicas")
}

// TestSwarmAsked: steps are made of the faults that are asked for, under the one that lies
// over all, and what waits for events is still drawn.
func TestSwarmAsked(t *testing.T) {
	base := swarmBase()
	base.Scheme = "multimaster"
	waits := 0
	for seed := range uint64(20) {
		p, err := Swarm{Base: base, Faults: []string{"kill"}, Haze: "disk-slow"}.Plan(seed)
		require.NoError(t, err)
		require.Equal(t, "disk-slow", p.Steps[0].Fault)
		require.Equal(t, []string{"kill"}, p.Faults)
		for _, s := range p.Steps[1:] {
			if s.When != "" {
				waits++
				continue
			}
			require.Equal(t, "kill", s.Fault)
		}
	}
	require.Positive(t, waits)
}
