package nats

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"
)

// askTimeout bounds one question that the harness itself asks.
const askTimeout = 2 * time.Second

// maxAnswer bounds what a node may make the harness read, in bytes.
const maxAnswer = 16 << 20

// account is the one that clients without credentials belong to.
const account = "$G"

// The monitoring endpoints' answers, as far as they are used: monitor.go of the
// server, the same in all versions from 2.9 on.
type (
	varz struct {
		Version string `json:"version"`
		Name    string `json:"server_name"`
	}
	jsz struct {
		Meta *struct {
			Leader string `json:"leader"`
			Size   int    `json:"cluster_size"`
		} `json:"meta_cluster"`
		Accounts []struct {
			Name    string         `json:"name"`
			Streams []streamDetail `json:"stream_detail"`
		} `json:"account_details"`
	}
	// streamDetail is a stream as one node sees it: State is of that node's own copy.
	streamDetail struct {
		Name    string         `json:"name"`
		Cluster *clusterDetail `json:"cluster"`
		State   streamState    `json:"state"`
	}
	clusterDetail struct {
		Leader   string `json:"leader"`
		Replicas []struct {
			Name    string `json:"name"`
			Current bool   `json:"current"`
			Lag     uint64 `json:"lag"`
		} `json:"replicas"`
	}
	streamState struct {
		Messages uint64 `json:"messages"`
		First    uint64 `json:"first_seq"`
		Last     uint64 `json:"last_seq"`
	}
)

// monitor asks nodes at their monitoring ports.
type monitor struct {
	resolve func(node string) (string, error) // host:port
}

// get reads path from a node, and parses it into out unless that is nil.
func (m monitor) get(ctx context.Context, node, path string, timeout time.Duration, out any) error {
	at, err := m.resolve(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+path, nil)
	if err != nil {
		return err
	}
	req.Close = true // the node may be another process next time
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("%s does not answer: %w", node, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("%s stops answering: %w", node, err)
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s answers %s with %s: %.200s", node, path, resp.Status, body)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("%s answers %s with what cannot be read: %w", node, path, err)
	}
	return nil
}

// streams are the streams as a node sees them, by name, and what it says of the meta group.
func (m monitor) streams(ctx context.Context, node string) (map[string]streamDetail, jsz, error) {
	var j jsz
	if err := m.get(ctx, node, "/jsz?accounts=true&streams=true&limit=1024", askTimeout, &j); err != nil {
		return nil, j, err
	}
	streams := map[string]streamDetail{}
	for _, a := range j.Accounts {
		if a.Name == account {
			for _, s := range a.Streams {
				streams[s.Name] = s
			}
		}
	}
	return streams, j, nil
}
