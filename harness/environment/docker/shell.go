package docker

import (
	"strings"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/nemesis"
)

// shell runs commands of the user's own, which are told the containers that they
// are to hit.
func (e *Environment) shell() nemesis.Shell {
	return environment.Shell{RunID: e.cfg.RunID, Nodes: e.Nodes(), Variables: func(targets []string) []string {
		return []string{
			"FAULTLINE_CONTAINERS=" + strings.Join(e.containers(targets), ","),
			"FAULTLINE_NETWORK=" + e.netName(),
		}
	}}
}

// containers are the ids of nodes' containers, "" where there is none.
func (e *Environment) containers(nodes []string) []string {
	ids := make([]string, len(nodes))
	for i, name := range nodes {
		if n, err := e.node(name); err == nil {
			ids[i] = n.container()
		}
	}
	return ids
}
