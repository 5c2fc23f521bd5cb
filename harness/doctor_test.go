package harness

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/nemesis"
)

// healthy is a host on which everything works but what is named.
func healthy(but ...docker.Feature) docker.Host {
	var h docker.Host
	seen := map[string]bool{}
	for _, f := range but {
		h.Features, seen[f.Name] = append(h.Features, f), true
	}
	for _, f := range nemesis.Known() {
		for _, name := range featuresOf(f.Name, f.NeedsOf("")) {
			if !seen[name] {
				h.Features, seen[name] = append(h.Features, docker.Feature{Name: name, Works: true}), true
			}
		}
	}
	return h
}

func TestDiagnosis(t *testing.T) {
	missing := func(name string) docker.Feature {
		return docker.Feature{Name: name, Detail: "the kernel has none", Remedy: "load it"}
	}
	t.Run("all works", func(t *testing.T) {
		d := diagnosis(healthy())
		require.True(t, d.Ready)
		for _, f := range nemesis.Known() {
			require.Equal(t, FaultStatus{Name: f.Name, Works: true}, d.Fault(f.Name))
		}
	})
	t.Run("one feature is missing", func(t *testing.T) {
		for feature, faults := range map[string][]string{
			packetFeature("delay"):  {"delay"},
			docker.FeatureThrottle:  {"disk-slow"},
			docker.FeatureLimits:    {"cpu", "memory"},
			docker.FeatureDisks:     {"power", "wipe", "disk-full", "disk-error", "disk-slow", "corrupt-file"},
			docker.FeatureNetem:     {},
			docker.FeatureCgroups:   {},
			packetFeature("nobody"): {},
		} {
			d := diagnosis(healthy(missing(feature)))
			require.True(t, d.Ready, feature)
			for _, name := range faults {
				s := d.Fault(name)
				require.False(t, s.Works, "%s without %s", name, feature)
				require.Contains(t, s.Why, feature+": the kernel has none; load it")
			}
			require.True(t, d.Fault("kill").Works)
			require.Equal(t, feature != packetFeature("delay"), d.Fault("delay").Works)
		}
	})
	t.Run("a shape needs what another does not", func(t *testing.T) {
		s := diagnosis(healthy(missing(docker.FeatureDisks))).Fault("restart")
		require.True(t, s.Works)
		require.Equal(t, "power, wipe: disks of nodes: the kernel has none; load it", s.Why)
	})
	t.Run("what the default jobs need is missing", func(t *testing.T) {
		for _, feature := range []string{docker.FeatureEngine, docker.FeatureImage, docker.FeatureNftables} {
			d := diagnosis(healthy(missing(feature)))
			require.False(t, d.Ready, feature)
			require.False(t, d.Fault("partition").Works)
			require.Contains(t, d.Fault("kill").Why, "load it")
		}
		require.False(t, diagnosis(docker.Host{}).Ready, "nobody looked")
	})
	require.Equal(t, []string{"cpu", "memory"}, NeededBy(docker.FeatureLimits))
	require.Len(t, NeededBy(docker.FeatureNftables), len(nemesis.Known()))
	require.Empty(t, NeededBy(docker.FeatureNetem))
}

// TestDiagnose examines the host that there is: whatever the other tests need
// works there, and nothing is left.
func TestDiagnose(t *testing.T) {
	needDocker(t)
	d, err := Diagnose(t.Context())
	require.NoError(t, err)
	require.True(t, d.Ready)
	for _, f := range d.Features {
		require.True(t, f.Works || f.Detail != "", "%s: no reason", f.Name)
		if len(NeededBy(f.Name)) > 0 {
			require.True(t, f.Works || f.Remedy != "", "%s: %s: no remedy", f.Name, f.Detail)
		}
		t.Logf("%+v", f)
	}
	require.Len(t, d.Faults, len(nemesis.Known()))
}

// TestDiagnoseWithoutDocker: nothing works then, and the reason is the engine.
func TestDiagnoseWithoutDocker(t *testing.T) {
	t.Setenv("DOCKER_HOST", "tcp://127.0.0.1:1")
	d, err := Diagnose(t.Context())
	require.NoError(t, err)
	require.False(t, d.Ready)
	require.Contains(t, d.Fault("kill").Why, "Docker Engine: at tcp://127.0.0.1:1")
	require.Contains(t, d.Fault("kill").Why, "start the engine, or set DOCKER_HOST")
	f := d.Lookup(docker.FeatureLimits)
	require.Equal(t, docker.Feature{Name: docker.FeatureLimits, Detail: "not looked at", Remedy: "see Docker Engine"}, f)
}
