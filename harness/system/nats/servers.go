package nats

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/faultline-mq/faultline/harness/environment"
	"github.com/faultline-mq/faultline/harness/environment/docker"
	"github.com/faultline-mq/faultline/harness/system"
)

// Where a node's data lie, and where its configuration is put. The same suits every
// official image: its entry point takes the server's flags.
const (
	storeDir   = "/data"
	configFile = "/faultline.conf"
)

// Docker implements system.System.
func (System) Docker(spec system.Spec) (docker.Config, error) {
	v := resolve(spec)
	image := spec.Image
	if image == "" {
		name, err := Image(v[optVersion]).Tag()
		if err != nil {
			return docker.Config{}, err
		}
		image = name
	}
	cfg := docker.Config{RunID: spec.RunID, Ports: environment.DefaultPorts}
	for _, name := range spec.Nodes {
		cfg.Nodes = append(cfg.Nodes, docker.NodeSpec{
			Name: name, Image: image, DataDir: storeDir, Records: ".blk",
			Cmd:   func(map[string]netip.Addr, string) []string { return []string{"--config", configFile} },
			Files: map[string][]byte{configFile: []byte(serverConfig(name, spec.Nodes, v, environment.DefaultPorts))},
		})
	}
	return cfg, nil
}

// serverConfig is the configuration file of one server: one that stands alone, or one
// of a cluster whose routes are all named. The limit on storage is no limit, so that a
// full disk is what ends it.
func serverConfig(name string, nodes []string, v values, p environment.NodePorts) string {
	var b strings.Builder
	fmt.Fprintf(&b, "server_name: %s\nlisten: \"0.0.0.0:%d\"\nhttp: \"0.0.0.0:%d\"\nping_interval: %q\nping_max: 2\n", name, p.Client, p.Admin, v[optPing])
	fmt.Fprintf(&b, "jetstream {\n  store_dir: %q\n  max_file_store: 1TB\n", storeDir)
	if s := v[optSync]; s != syncDefault {
		fmt.Fprintf(&b, "  sync_interval: %q\n", s)
	}
	b.WriteString("}\n")
	if len(nodes) == 1 {
		return b.String()
	}
	fmt.Fprintf(&b, "cluster {\n  name: faultline\n  listen: \"0.0.0.0:%d\"\n  no_advertise: true\n  routes: [\n", p.Peer)
	for _, n := range nodes {
		if n != name {
			fmt.Fprintf(&b, "    \"nats-route://%s:%d\"\n", n, p.Peer)
		}
	}
	b.WriteString("  ]\n}\n")
	return b.String()
}
