package harness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/nemesis"
	"github.com/faultline-mq/faultline/nemesis/sidecar"
)

// defaultFaults are those of the jobs that `make` has: what they need must work.
var defaultFaults = []string{"partition", "kill", "pause"}

// Diagnosis is what a Docker host can do for runs.
type Diagnosis struct {
	docker.Host
	Ready  bool          `json:"ready"`  // all that the default jobs need works
	Faults []FaultStatus `json:"faults"` // in the order of the catalogue
}

// FaultStatus says whether a fault can be had in Docker on this host.
type FaultStatus struct {
	Name  string `json:"name"`
	Works bool   `json:"works"`
	Why   string `json:"why,omitempty"` // it does not, or not every shape of it
}

// packetFeature is what the try of a fault on packets and connections shows.
func packetFeature(fault string) string {
	means := map[string]string{"loss": "nftables numgen", "duplicate": "nftables dup", "reset": "nftables reject", "half-open": "nftables TCP flags"}[fault]
	if means == "" {
		means = "NFQUEUE"
	}
	return means + " for " + fault
}

// Diagnose finds out what the Docker engine's host can do. What does not work is
// no error.
func Diagnose(ctx context.Context) (Diagnosis, error) {
	tries := map[string]sidecar.RuleSet{}
	for fault, set := range onPackets {
		tries[packetFeature(fault)] = set
	}
	h, err := docker.Examine(ctx, tries)
	if err != nil {
		return Diagnosis{}, fmt.Errorf("examining the Docker host: %w", err)
	}
	return diagnosis(h), nil
}

func diagnosis(h docker.Host) Diagnosis {
	d := Diagnosis{Host: h, Ready: true}
	for _, f := range nemesis.Known() {
		s := statusOf(h, f)
		d.Faults = append(d.Faults, s)
		if slices.Contains(defaultFaults, f.Name) && !s.Works {
			d.Ready = false
		}
	}
	return d
}

// Fault returns the status of a fault of the catalogue.
func (d Diagnosis) Fault(name string) FaultStatus {
	for _, s := range d.Faults {
		if s.Name == name {
			return s
		}
	}
	return FaultStatus{Name: name, Why: "unknown"}
}

// NeededBy lists the faults that need a feature, of every shape or of some.
func NeededBy(feature string) []string {
	var names []string
	for _, f := range nemesis.Known() {
		if slices.Contains(featuresOf(f.Name, f.NeedsOf("")), feature) {
			names = append(names, f.Name)
		}
	}
	return names
}

// featuresOf are what a fault with such needs asks of an engine and its host.
func featuresOf(fault string, needs []nemesis.Capability) []string {
	features := []string{docker.FeatureEngine, docker.FeatureImage, docker.FeatureNftables} // without nftables there is no sidecar, and no node
	if _, ok := onPackets[fault]; ok {
		features = append(features, packetFeature(fault))
	}
	for _, c := range needs {
		switch {
		case c == nemesis.NeedsSlowDisks:
			features = append(features, docker.FeatureThrottle)
			fallthrough
		case slices.Contains(ofDisks, c):
			features = append(features, docker.FeatureRoot, docker.FeatureLoop, docker.FeatureExt4, docker.FeatureDisks)
		case c == nemesis.NeedsLimits:
			features = append(features, docker.FeatureLimits)
		}
	}
	return features
}

// statusOf says whether a host can have a fault, and what it lacks for it.
func statusOf(h docker.Host, f nemesis.Info) FaultStatus {
	shapes := []nemesis.Shape{""}
	if len(f.Shapes) > 0 {
		shapes = nil
		for _, s := range f.Shapes {
			shapes = append(shapes, s.Name)
		}
	}
	why := map[string][]string{} // what is missing → the shapes that need it
	works := 0
	for _, s := range shapes {
		if text := lacks(h, f, s); text != "" {
			why[text] = append(why[text], string(s))
		} else {
			works++
		}
	}
	status := FaultStatus{Name: f.Name, Works: works > 0}
	var parts []string
	for _, text := range slices.Sorted(maps.Keys(why)) {
		if works > 0 || len(why) > 1 {
			text = strings.Join(why[text], ", ") + ": " + text
		}
		parts = append(parts, text)
	}
	status.Why = strings.Join(parts, "; ")
	return status
}

// lacks says what a host lacks for a shape of a fault, "" where it lacks nothing.
func lacks(h docker.Host, f nemesis.Info, s nemesis.Shape) string {
	for _, name := range featuresOf(f.Name, f.NeedsOf(s)) {
		if found := h.Lookup(name); !found.Works {
			text := name + ": " + found.Detail
			if found.Remedy != "" {
				text += "; " + found.Remedy
			}
			return text
		}
	}
	return ""
}
