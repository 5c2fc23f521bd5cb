package reference

import (
	"net/netip"
	"strings"

	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
)

// Distribution is the reference broker as one of the brokers that speak Kafka's
// protocol (harness/system/anykafka): its image is run, and it is tested as any other
// one is, by what Kafka's clients can see.
type Distribution struct{}

// Name names it.
func (Distribution) Name() string { return "reference" }

// Doc describes it.
func (Distribution) Doc() string { return "the project's own broker (faultline images), scheme isr" }

// Recognises reports whether an image is one of this project's, by its name.
func (Distribution) Recognises(image string) bool { return strings.HasPrefix(image, "faultline/node:") }

// Tells reports that its nodes write events on their standard output.
func (Distribution) Tells() bool { return true }

// Docker describes the nodes, with these options of brokers.
func (Distribution) Docker(spec system.Spec, set map[string]string) docker.Config {
	spec.Scheme, spec.Set = "isr", set
	return containers(spec, func(node string, _ netip.Addr) string { return node })
}
