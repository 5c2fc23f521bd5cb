package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/faultline-mq/faultline/checker"
	"github.com/faultline-mq/faultline/checker/history"
	"github.com/faultline-mq/faultline/harness"
)

// TestBadInput: what the user can mend is one line that names it and the remedy,
// exit code 254, and nothing stored.
func TestBadInput(t *testing.T) {
	plainly(t)
	t.Parallel()
	files := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(files, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	empty := t.TempDir()
	for _, c := range []struct {
		name  string
		args  string
		texts []string
	}{
		{"command", "bogus", []string{`unknown command "bogus"`, "known commands: ", "run", "check"}},
		{"flag", "run --bogus", []string{"unknown flag: --bogus", "faultline run --help"}},
		{"argument", "run extra", []string{"usage: faultline run"}},
		{"number", "run --nodes many", []string{`"many"`, "--nodes", "faultline run --help"}},
		{"duration", "run --time 60", []string{`"60"`, "--time", "missing unit"}},
		{"fault", "run --env sim --faults bogus", []string{`unknown fault "bogus"`, "known are partition, kill, stop, pause, power"}},
		{"empty fault", "run --env sim --faults kill,", []string{`unknown fault ""`, "known are"}},
		{"fault twice", "run --env sim --faults kill,kill", []string{`"kill" is named twice`}},
		{"shape", "run --env sim --faults partition:bogus", []string{`unknown shape "bogus"`, "isolate-leader"}},
		{"shape of a fault without", "run --env sim --faults kill:ring", []string{"kill has no shapes"}},
		{"shape for five nodes", "run --env sim --faults partition:ring", []string{"partition:ring needs at least 5 nodes", "there are 3", "--nodes 5"}},
		{"halves on four", "run --env sim --nodes 4 --faults partition:halves", []string{"partition:halves needs at least 5 nodes", "--nodes 5"}},
		{"partition of one node", "run --env sim --nodes 1", []string{"needs at least 2 nodes"}},
		{"target", "run --env sim --faults kill --targets n9", []string{`unknown target "n9"`, "n1, n2, n3", "leader"}},
		{"target of none", "run --env sim --nodes 1 --faults kill --targets minority", []string{`"minority" are none of 1 nodes`}},
		{"target for a shape that chooses", "run --env sim --nodes 5 --faults partition:ring --targets n1", []string{"partition:ring chooses its own targets"}},
		{"fault that the simulator lacks", "run --env sim --faults cpu", []string{"fault cpu", "environment sim cannot limit what processes use", "--env docker"}},
		{"argument of the doctor", "doctor all", []string{"usage: faultline doctor"}},
		{"scheme", "run --env sim --scheme bogus", []string{`unknown scheme "bogus"`, "known schemes: ", "isr", "single"}},
		{"workload", "run --env sim --workload bogus", []string{`unknown workload "bogus"`, "known are log"}},
		{"system", "run --env sim --system bogus", []string{`unknown system "bogus"`, "known systems: reference"}},
		{"environment", "run --env bogus", []string{`unknown environment "bogus"`, "known environments: docker, sim"}},
		{"kafka without nodes", "run --system kafka", []string{"system kafka", "--image", "--addresses"}},
		{"image of no name", "run --system kafka --image team/broker:7", []string{"team/broker:7", "--set distribution=apache|redpanda|reference"}},
		{"address without port", "run --system kafka --addresses host", []string{`address "host"`, "HOST:PORT is wanted"}},
		{"addresses in docker", "run --system kafka --env docker --addresses host:1", []string{"addresses belong to an external cluster", "leave --env out"}},
		{"addresses of another system", "run --addresses host:1", []string{"system reference cannot be reached by addresses", "--system kafka"}},
		{"nodes beside addresses", "run --system kafka --addresses a:1,b:1 --nodes 3", []string{"--nodes 3, and 2 addresses", "leave --nodes out"}},
		{"fault of an external cluster", "run --system kafka --addresses a:1 --faults kill", []string{"fault kill: the harness cannot control processes of a cluster that it does not run", "--faults exec"}},
		{"external without addresses", "run --system kafka --env external", []string{"environment external needs the address of every node", "--addresses HOST:PORT"}},
		{"half of an exec", "run --exec-inject x", []string{"exec has no command to prove and none to heal", "--exec-prove and --exec-heal"}},
		{"exec in the simulator", "run --env sim --exec-inject x --exec-prove x --exec-heal x", []string{"fault exec", "environment sim cannot run commands of the user's own", "--env docker"}},
		{"commands for nothing", "run --faults kill --exec-inject x", []string{"commands are given, and the plan has no fault exec"}},
		{"client", "run --client bogus", []string{`unknown client "bogus" of system reference`, "known clients: precise"}},
		{"expectation", "run --env sim --expect bogus", []string{`unknown expectation "bogus"`, "known: survive, declared"}},
		{"option", "run --env sim --set bogus=1", []string{`unknown option "bogus"`, "known options: ", ", acks, "}},
		{"value of an option", "run --env sim --set acks=7", []string{`acks="7"`, "allowed values are 0, 1, all, -1"}},
		{"option without value", "run --env sim --set acks", []string{"--set acks", "NAME=VALUE"}},
		{"more replicas than nodes", "run --env sim --set min.insync.replicas=4", []string{"min.insync.replicas=4", "3 replicas"}},
		{"replicas of single", "run --env sim --scheme single --set replication.factor=3", []string{"replication.factor=3", "at most 1"}},
		{"no nodes", "run --env sim --nodes 0", []string{"0 nodes", "1 to 9 are possible"}},
		{"too many nodes", "run --env sim --nodes 10", []string{"10 nodes", "1 to 9 are possible"}},
		{"no clients", "run --env sim --clients 0", []string{"0 clients", "1 to 1000 are possible"}},
		{"negative rate", "run --env sim --rate -1", []string{"-1 operations per second", "is possible"}},
		{"payload", "run --env sim --size 1", []string{"payloads of 1 bytes", "at least"}},
		{"huge payload", "run --env sim --size 9999999", []string{"payloads of 9999999 bytes", "at most 1000000"}},
		{"negative time", "run --env sim --time -3s", []string{"a run of -3s", "9s to 24h"}},
		{"too short", "run --env sim --time 5s", []string{"a run of 5s", "9s to 24h is possible"}},
		{"too short for its faults", "run --env sim --time 30s --faults kill,pause", []string{"fault phase of 19s is too short for kill, pause", "at least 24s"}},
		{"no plan file", "run --plan " + files + "/none.yaml", []string{"plan file", "none.yaml", "no such file"}},
		{"plan that is a directory", "run --plan " + files, []string{"plan file", "is a directory"}},
		{"key of a plan", "run --plan " + file("key.yaml", "version: 1\nbogus: 1\n"), []string{"key.yaml", `unknown field "bogus"`}},
		{"version of a plan", "run --plan " + file("version.yaml", "version: 9\nenvironment: sim\n"), []string{"plan version 9", "reads version 1"}},
		{"plan without version", "run --plan " + file("none.yaml.yaml", "environment: sim\n"), []string{"has no version", "reads version 1"}},
		{"plan that is no YAML", "run --plan " + file("text.yaml", "version: 1\n\tnodes: {{\n"), []string{"text.yaml"}},
		{"plan of another type", "run --plan " + file("type.yaml", "version: 1\nnodes: [1, 2]\n"), []string{"type.yaml"}},
		{"empty plan", "run --plan " + file("empty.yaml", ""), []string{"empty.yaml"}},
		{"step of a plan", "run --plan " + file("step.yaml", "version: 1\nenvironment: sim\nsteps: [{fault: kill, targets: n1, at: 9s, until: 3s}]\n"), []string{"step 0", "must end after it begins"}},
		{"name of a target", "run --plan " + file("name.yaml", "version: 1\nenvironment: sim\nsteps: [{fault: kill, targets: \"@old\", at: 1s, until: 3s}]\n"), []string{`"@old"`, "no earlier step gives (as: old)"}},
		{"scenario", "run --scenario bogus", []string{`unknown scenario "bogus"`, "known scenarios: all-lose-power"}},
		{"nodes of a scenario", "run --scenario all-lose-power --nodes 5", []string{"--nodes: a scenario has its own"}},
		{"scenario and plan", "run --scenario all-lose-power --plan x.yaml", []string{"--scenario and --plan exclude each other"}},
		{"weakened what", "run --weakened", []string{"--weakened: say which --scenario"}},
		{"kind of a list", "list bogus", []string{`unknown kind "bogus"`, "known kinds: claims, clauses, faults, options, scenarios, schemes, systems, workloads"}},
		{"list of nothing", "list", []string{"usage: faultline list KIND"}},
		{"check nothing", "check", []string{"usage: faultline check RESULT"}},
		{"check of no result", "check " + empty, []string{empty + " is no result directory"}},
		{"check of nowhere", "check " + empty + "/none", []string{"none is no result directory"}},
		{"report of no result", "report " + empty, []string{"is no result directory"}},
		{"replay of no result", "replay " + empty, []string{"is no result directory"}},
		{"explain of no result", "explain " + empty + " 1:1", []string{history.FileName, "no such file"}},
		{"value", "explain " + empty + " x", []string{`value "x" is not "producer:sequence"`}},
		{"export of no result", "export " + empty, []string{history.FileName, "no such file"}},
		{"seeds of a hunt", "hunt --seeds -1", []string{"-1 seeds"}},
		{"budget of a hunt", "hunt --budget -1s", []string{"budget of -1s"}},
		{"hunt in docker", "hunt --env docker", []string{"--env docker", "faultline run"}},
		{"fault of a hunt", "hunt --faults bogus", []string{`unknown fault "bogus"`}},
		{"seeds of a verification", "verify --seeds 0", []string{"0 seeds"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			work := t.TempDir()
			cmd := faultline(t, nil, strings.Fields(c.args)...)
			cmd.Dir = work
			a := await(t, cmd)
			a.requireRefused(t, 254, c.texts...)
			require.Empty(t, a.stdout)
			require.Empty(t, under(t, work), "something was left behind")
		})
	}
}

// TestNoDocker: without an engine a run in docker is refused with the remedy, and
// auto says in its first line that it simulates.
func TestNoDocker(t *testing.T) {
	plainly(t)
	t.Parallel()
	out := t.TempDir()
	for _, args := range []string{"run --env docker --out " + out, "images", "clean", "verify --env docker --out " + out} {
		ask(t, nil, strings.Fields(args)...).requireRefused(t, 255, "cannot use Docker at tcp://127.0.0.1:1", "DOCKER_HOST")
	}
	require.Empty(t, under(t, out))
	ask(t, []string{"DOCKER_HOST=bogus"}, "run", "--env", "docker", "--out", out).requireRefused(t, 255, "Docker", "bogus")

	a := ask(t, nil, "run", "--env", "auto", "--time", "20s", "--out", out)
	require.Equal(t, 0, a.code, a.stderr)
	require.Empty(t, a.stderr)
	first, _, _ := strings.Cut(a.stdout, "\n")
	require.Contains(t, first, "No Docker here, running in the simulator")
	require.Contains(t, first, "tcp://127.0.0.1:1")
	require.Contains(t, a.stdout, "\nVALID  ")
}

// TestDoctorWithoutDocker: nothing of it works then, which has an exit code of its
// own; what faults are there can be listed all the same.
func TestDoctorWithoutDocker(t *testing.T) {
	t.Parallel()
	a := ask(t, nil, "doctor")
	require.Equal(t, exitNotReady, a.code, a.stderr)
	require.Empty(t, a.stderr)
	require.Regexp(t, `(?m)^Docker Engine +no +all +at tcp://127.0.0.1:1: .*; start the engine, or set DOCKER_HOST$`, a.stdout)
	require.Regexp(t, `(?m)^nftables +no +all +not looked at; see Docker Engine$`, a.stdout)
	require.Regexp(t, `(?m)^kill +no +Docker Engine: `, a.stdout)
	require.Contains(t, a.stdout, "--env sim needs none of it")

	a = ask(t, nil, "doctor", "--json")
	require.Equal(t, exitNotReady, a.code, a.stderr)
	var d harness.Diagnosis
	require.NoError(t, json.Unmarshal([]byte(a.stdout), &d))
	require.False(t, d.Ready)
	require.NotEmpty(t, d.Features)
	require.NotEmpty(t, d.Faults)

	a = ask(t, nil, "list", "faults")
	require.Equal(t, 0, a.code, a.stderr)
	for _, text := range []string{
		"targets: one, minority", "option at (duration, default drawn): when it is injected", "environments: docker, sim",
		"environment sim cannot limit what processes use", "docker on this host: no; Docker Engine: at tcp://127.0.0.1:1",
	} {
		require.Contains(t, a.stdout, text)
	}
}

// TestDamagedHistory: a history with a hole in it proves nothing, and the damage
// is no verdict: restored, it is judged as before.
func TestDamagedHistory(t *testing.T) {
	plainly(t)
	t.Parallel()
	s := ask(t, nil, "run", "--env", "sim", "--time", "20s", "--json", "--out", t.TempDir()).summary(t)
	require.Equal(t, checker.Valid, s.Verdict)
	file := filepath.Join(s.Dir, history.FileName)
	whole, err := os.ReadFile(file)
	require.NoError(t, err)
	before, err := os.ReadFile(filepath.Join(s.Dir, "summary.json"))
	require.NoError(t, err)
	refused := 0
	for at := 0; at < len(whole); at += 1 + len(whole)/23 {
		damaged := bytes.Clone(whole)
		damaged[at] ^= 0x41
		require.NoError(t, os.WriteFile(file, damaged, 0o600))
		a := ask(t, nil, "check", s.Dir)
		if a.code == 2 {
			// The length of a chunk was hit: the rest reads as a torn end, which decides nothing.
			require.Contains(t, a.stdout, "UNKNOWN  Could not decide: the history ends without its closing entry")
			require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "summary.json"), before, 0o600))
			continue
		}
		refused++
		a.requireRefused(t, 255, file)
		if at > 16 {
			require.Contains(t, a.stderr, "is corrupt at byte")
			require.Contains(t, a.stderr, "restore the file from a copy or run again")
		}
	}
	require.Greater(t, refused, 18)
	damaged := bytes.Clone(whole)
	damaged[len(whole)/3] ^= 1
	require.NoError(t, os.WriteFile(file, damaged, 0o600))
	for _, args := range [][]string{{"report", s.Dir}, {"export", s.Dir}, {"explain", s.Dir, "0:1"}} {
		ask(t, nil, args...).requireRefused(t, 255, file, "is corrupt at byte")
	}
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	ask(t, nil, "check", s.Dir).requireRefused(t, 255, "ends before its header", "run again")
	after, err := os.ReadFile(filepath.Join(s.Dir, "summary.json"))
	require.NoError(t, err)
	require.Equal(t, before, after, "the stored verdict was touched")
	require.NoError(t, os.WriteFile(file, whole, 0o600))
	require.Equal(t, checker.Valid, ask(t, nil, "check", "--json", s.Dir).summary(t).Verdict)
}

// TestTruncatedHistory: what a killed harness leaves is judged as far as it goes,
// and decides nothing.
func TestTruncatedHistory(t *testing.T) {
	plainly(t)
	t.Parallel()
	s := ask(t, nil, "run", "--env", "sim", "--time", "20s", "--json", "--out", t.TempDir()).summary(t)
	file := filepath.Join(s.Dir, history.FileName)
	fi, err := os.Stat(file)
	require.NoError(t, err)
	for _, tenths := range []int64{9, 5} {
		require.NoError(t, os.Truncate(file, fi.Size()*tenths/10))
		a := ask(t, nil, "check", s.Dir)
		require.Equal(t, 2, a.code, a.stderr)
		require.Contains(t, a.stdout, "UNKNOWN  Could not decide: the history ends without its closing entry")
		require.Contains(t, a.stdout, "\n  why     ")
		require.Contains(t, a.stdout, "\n  change  ")
		require.Empty(t, a.stderr)
	}
}

// TestUnwritableOut: a place that takes no results is one line with the remedy.
func TestUnwritableOut(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, []byte("kept"), 0o600))
	for _, out := range []string{file, filepath.Join(file, "below")} {
		ask(t, nil, "run", "--env", "sim", "--time", "20s", "--out", out).requireRefused(t, 255, file, "not a directory", "choose another with --out")
	}
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, "kept", string(b))
}

// smallDisk mounts a file system of so many bytes.
func smallDisk(t *testing.T, size string) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
			t.Skipf("mounting a small file system needs root: %v", err)
		}
		require.NoError(t, err)
	}
	t.Cleanup(func() { require.NoError(t, syscall.Unmount(dir, 0)) })
	return dir
}

// TestFullDisk: results that cannot be stored are one line with the remedy, and
// no half-written file stands in their place.
func TestFullDisk(t *testing.T) {
	plainly(t)
	t.Run("from the start", func(t *testing.T) {
		out := smallDisk(t, "64k")
		filler, err := os.Create(filepath.Join(out, "filler"))
		require.NoError(t, err)
		for err == nil {
			_, err = filler.Write(make([]byte, 4096))
		}
		require.ErrorIs(t, err, syscall.ENOSPC)
		require.NoError(t, filler.Close())
		ask(t, nil, "run", "--env", "sim", "--time", "20s", "--out", out).requireRefused(t, 255, "no space left on device", "--out")
		require.Equal(t, []string{"filler"}, under(t, out))
	})
	t.Run("in mid-run", func(t *testing.T) {
		out := smallDisk(t, "128k")
		a := ask(t, nil, "run", "--env", "sim", "--time", "20s", "--out", out)
		a.requireRefused(t, 255, "no space left on device", "free some space")
		for _, f := range under(t, out) {
			require.NotContains(t, f, "summary.json", "half a report")
		}
		// What was recorded is judged as far as it goes once there is room.
		copied := t.TempDir()
		dir, err := filepath.EvalSymlinks(filepath.Join(out, "latest"))
		require.NoError(t, err)
		require.NoError(t, os.CopyFS(copied, os.DirFS(dir)))
		require.Equal(t, 2, ask(t, nil, "check", copied).code)
	})
}

// TestPlanFile: --plan with flags over it runs what both say.
func TestPlanFile(t *testing.T) {
	plainly(t)
	t.Parallel()
	p := harness.DefaultPlan()
	p.Environment, p.Faults = "sim", []string{"kill"}
	b, err := p.YAML()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "plan.yaml")
	require.NoError(t, os.WriteFile(file, b, 0o600))
	s := ask(t, nil, "run", "--plan", file, "--time", "25s", "--seed", "7", "--json", "--out", t.TempDir()).summary(t)
	require.Equal(t, uint64(7), s.Seed)
	require.Equal(t, "kill", s.FaultSpec)
	require.Equal(t, "sim", s.Environment)
	require.Contains(t, s.Command, "--time 25s")
}
