package harness

import (
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker/history"
)

// fingerprint is one line of everything that a seed's run was: history, node
// events, every action of the simulator, and what the nodes left (their logs,
// events and the digests of their disks).
func fingerprint(ctx context.Context, seed uint64, dir string) (string, error) {
	p, err := SwarmPlan(swarmBase(), seed)
	if err != nil {
		return "", err
	}
	header, err := Header(p, "sim", time.Unix(0, 0))
	if err != nil {
		return "", err
	}
	rec := history.NewRecorder(header)
	ex, err := Execute(ctx, Config{Plan: p, RunID: "sim"}, rec, dir)
	if err != nil {
		return "", err
	}
	if ex.Err != nil {
		return "", ex.Err
	}
	nodes := sha256.New()
	for _, n := range p.NodeNames() {
		for _, file := range []string{"stdout.log", "events.jsonl", "digest"} {
			b, err := os.ReadFile(filepath.Join(dir, n, file))
			if err != nil {
				return "", err
			}
			fmt.Fprintf(nodes, "%s %s %d\n%s", n, file, len(b), b)
		}
	}
	return fmt.Sprintf("seed %d: %d operations, history %s, trace %s, nodes %x", seed, len(rec.History().Ops), rec.History().Digest(), ex.Digest, nodes.Sum(nil)), nil
}

// fingerprints is what a process of TestDeterminism does: seeds 1 to n.
func fingerprints(n int) error {
	for seed := 1; seed <= n; seed++ {
		dir, err := os.MkdirTemp("", "fingerprint")
		if err != nil {
			return err
		}
		line, err := fingerprint(context.Background(), uint64(seed), dir)
		if rerr := os.RemoveAll(dir); err == nil {
			err = rerr
		}
		if err != nil {
			return fmt.Errorf("seed %d: %w", seed, err)
		}
		fmt.Println(line)
	}
	return nil
}

// TestDeterminism runs the same seeds in two processes with different numbers of
// processors: everything must be the same. FAULTLINE_DETERMINISM_SEEDS says how
// many (default 2; `make determinism` takes 200).
func TestDeterminism(t *testing.T) {
	plainly(t)
	t.Parallel()
	n := 2
	if s := os.Getenv("FAULTLINE_DETERMINISM_SEEDS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		require.NoError(t, err)
	}
	var outs []string
	for _, procs := range []int{1, 2} {
		cmd := asWorkerProcess(t, "fingerprints", fmt.Sprintf("%s=%d", workerSeeds, n), fmt.Sprintf("GOMAXPROCS=%d", procs))
		var stderr strings.Builder
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		require.NoError(t, err, stderr.String())
		outs = append(outs, string(out))
	}
	one, two := strings.Split(strings.TrimSpace(outs[0]), "\n"), strings.Split(strings.TrimSpace(outs[1]), "\n")
	require.Len(t, one, n)
	require.Equal(t, one, two)
	seen := map[string]bool{}
	for _, line := range one {
		_, what, ok := strings.Cut(line, ": ")
		require.True(t, ok, line)
		require.False(t, seen[what], "two seeds gave one history")
		seen[what] = true
	}
}
