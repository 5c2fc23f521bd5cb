package reference

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/faultline-mq/faultline/nemesis"
)

// versions asks brokers at their admin port which version they run.
type versions struct {
	resolve func(node string) (string, error) // host:port of a node's admin port
}

var _ nemesis.Versions = versions{}

// versionTimeout bounds one request.
const versionTimeout = 2 * time.Second

// Version implements nemesis.Versions.
func (v versions) Version(ctx context.Context, node string) (string, error) {
	at, err := v.resolve(node)
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", node, err)
	}
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/version", nil)
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", node, err)
	}
	req.Close = true // the process is going to be another one
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", node, err)
	}
	defer func() { _ = resp.Body.Close() }()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if err != nil {
		return "", fmt.Errorf("version of %s: %w", node, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("version of %s: it answered %s", node, resp.Status)
	}
	return strings.TrimSpace(string(text)), nil
}
