package rabbitmq

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// api asks the management plugin of single nodes (rabbitmq.com/docs/http-api-reference).
type api struct {
	addr     func(node string) (string, error)
	password string
	client   http.Client
}

func newAPI(addr func(node string) (string, error), password string) *api {
	// A connection of its own for each request: a kept one may be dead.
	return &api{addr: addr, password: password, client: http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
}

var (
	errNotFound     = errors.New("not found")
	errUnauthorized = errors.New("it refuses user " + user + " with this password")
)

// askTimeout bounds one request.
const askTimeout = 3 * time.Second

// call sends one request to a node: body as JSON where it is not nil, and the answer
// into out where that is not nil.
func (a *api) call(ctx context.Context, node, method, path string, body, out any) error {
	err := a.request(ctx, node, method, path, body, out)
	if err != nil {
		return fmt.Errorf("node %s: %w", node, err)
	}
	return nil
}

func (a *api) request(ctx context.Context, node, method, path string, body, out any) error {
	addr, err := a.addr(node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	var send io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		send = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr+"/api/"+path, send)
	if err != nil {
		return err
	}
	req.SetBasicAuth(user, a.password)
	req.Header.Set("Content-Type", "application/json")
	resp, err := a.client.Do(req)
	if err != nil {
		return errors.New(method + " /api/" + path + ": " + reason(err))
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, 16<<20))
	switch {
	case err != nil:
		return errors.New(method + " /api/" + path + ": " + reason(err))
	case resp.StatusCode == http.StatusUnauthorized:
		return errUnauthorized
	case resp.StatusCode == http.StatusNotFound:
		return errNotFound
	case resp.StatusCode >= 300:
		return fmt.Errorf("%s /api/%s: %s: %.200s", method, path, resp.Status, bytes.TrimSpace(data))
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("%s /api/%s: %w", method, path, err)
	}
	return nil
}

// nodeOf is a node's name without what RabbitMQ puts before it.
func nodeOf(name string) string { return strings.TrimPrefix(name, "rabbit@") }

func nodesOf(names []string) []string {
	all := make([]string, len(names))
	for i, n := range names {
		all[i] = nodeOf(n)
	}
	return all
}

// memberView is a node as another one sees it.
type memberView struct {
	Name       string   `json:"name"`
	Running    bool     `json:"running"`
	Partitions []string `json:"partitions"` // nodes that it was parted from and is, since
}

func (a *api) members(ctx context.Context, node string) (all []memberView, err error) {
	err = a.call(ctx, node, http.MethodGet, "nodes?columns=name,running,partitions", nil, &all)
	return all, err
}

// overview has the version that a node runs.
func (a *api) version(ctx context.Context, node string) (string, error) {
	var o struct {
		RabbitMQ string `json:"rabbitmq_version"`
		Erlang   string `json:"erlang_version"`
	}
	err := a.call(ctx, node, http.MethodGet, "overview?columns=rabbitmq_version,erlang_version", nil, &o)
	return fmt.Sprintf("RabbitMQ %s on Erlang %s", o.RabbitMQ, o.Erlang), err
}

// queueView is a queue as one node sees it.
type queueView struct {
	State   string   `json:"state"` // "live" or "running", "down", "minority", …
	Node    string   `json:"node"`  // home or master
	Mirrors []string `json:"slave_nodes"`
	Synced  []string `json:"synchronised_slave_nodes"`
	Leader  string   `json:"leader"` // of a quorum queue
	Members []string `json:"members"`
	Online  []string `json:"online"`
}

// leads is the node that holds the queue, "" where none does.
func (q queueView) leads() string {
	if q.State == "down" || q.State == "stopped" {
		return ""
	}
	if q.Leader != "" {
		return nodeOf(q.Leader)
	}
	return nodeOf(q.Node)
}

// queue asks a node for its own view of a queue, as it is now.
func (a *api) queue(ctx context.Context, node, queue string) (q queueView, err error) {
	err = a.call(ctx, node, http.MethodGet, "queues/%2F/"+url.PathEscape(queue)+"?disable_stats=true", nil, &q)
	return q, err
}

// counts are the messages of a queue as its node counted them last, about a second ago.
type counts struct {
	Ready          *int64 `json:"messages_ready"`
	Unacknowledged *int64 `json:"messages_unacknowledged"`
}

func (a *api) counts(ctx context.Context, node, queue string) (c counts, err error) {
	err = a.call(ctx, node, http.MethodGet, "queues/%2F/"+url.PathEscape(queue)+"?columns=messages_ready,messages_unacknowledged", nil, &c)
	return c, err
}

// connections lists the names that clients gave their connections.
func (a *api) connections(ctx context.Context, node string) ([]string, error) {
	var all []struct {
		Name       string `json:"user_provided_name"`
		Properties struct {
			Name string `json:"connection_name"`
		} `json:"client_properties"`
	}
	if err := a.call(ctx, node, http.MethodGet, "connections?columns=user_provided_name,client_properties.connection_name", nil, &all); err != nil {
		return nil, err
	}
	names := make([]string, len(all))
	for i, c := range all {
		if names[i] = c.Name; c.Name == "" {
			names[i] = c.Properties.Name
		}
	}
	return names, nil
}

// setPolicy gives the workload's queues a policy.
func (a *api) setPolicy(ctx context.Context, node string, definition map[string]any) error {
	return a.call(ctx, node, http.MethodPut, "policies/%2F/faultline", map[string]any{
		"pattern": "^q-", "apply-to": "queues", "definition": definition,
	}, nil)
}
