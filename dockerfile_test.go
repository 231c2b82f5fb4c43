package main_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/weir-run/weir/test/programtest"
)

// instruction is one line of a Dockerfile, continuations joined.
type instruction struct{ name, rest string }

// parseDockerfile reads the little of the format that the project's own files
// use; anything else fails the test.
func parseDockerfile(t testing.TB, path string) []instruction {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var out []instruction
	var begun string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		begun += line
		if joined, more := strings.CutSuffix(begun, `\`); more {
			begun = joined
			continue
		}
		name, rest, _ := strings.Cut(begun, " ")
		out = append(out, instruction{name, strings.TrimSpace(rest)})
		begun = ""
	}
	return out
}

// image is what a Dockerfile comes to when it is carried out on this machine:
// its base images are this machine, and / is the folder root.
type image struct {
	root    string
	workdir string
	env     []string
	args    []string
	cmd     []string
	user    string
	expose  string
	check   string
}

// path is where a path of the image is on this machine.
func (i *image) path(p string) string {
	if !filepath.IsAbs(p) {
		p = filepath.Join(i.workdir, p)
	}
	return filepath.Join(i.root, p)
}

// assemble carries out the Dockerfile in the folder context as a builder would.
// watchdog is the image that the functions take fwatchdog from.
func assemble(t testing.TB, context string, watchdog *image) *image {
	t.Helper()
	named := map[string]*image{}
	var at *image
	for _, in := range parseDockerfile(t, filepath.Join(context, "Dockerfile")) {
		if in.name == "FROM" {
			base, name, _ := strings.Cut(in.rest, " AS ")
			at = &image{root: t.TempDir(), workdir: "/"}
			if base == "${WATCHDOG_IMAGE}" {
				at = watchdog
			}
			named[name] = at
			continue
		}
		if at == nil && in.name == "ARG" {
			continue // of a FROM
		}
		at.carryOut(t, in, context, named)
	}
	return at
}

func (i *image) carryOut(t testing.TB, in instruction, context string, named map[string]*image) {
	t.Helper()
	switch in.name {
	case "WORKDIR":
		i.workdir = in.rest
		mkdir(t, i.path("."))
	case "ARG":
		if strings.Contains(in.rest, "=") {
			i.args = append(i.args, in.rest)
		}
	case "ENV":
		name, value, ok := strings.Cut(in.rest, "=")
		if !ok {
			t.Fatalf("ENV %s: want NAME=VALUE", in.rest)
		}
		i.env = append(i.env, name+"="+strings.Trim(value, `"`))
	case "COPY":
		i.copy(t, in.rest, context, named)
	case "RUN":
		cmd := exec.Command("sh", "-c", in.rest)
		cmd.Dir = i.path(".")
		// An argument that this machine's environment has, such as GOPROXY,
		// wins over its default.
		cmd.Env = append(slices.Clone(i.args), os.Environ()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("RUN %s: %v\n%s", in.rest, err, out)
		}
	case "USER":
		i.user = in.rest
	case "EXPOSE":
		i.expose = in.rest
	case "HEALTHCHECK":
		i.check = in.rest
	case "CMD":
		if err := json.Unmarshal([]byte(in.rest), &i.cmd); err != nil {
			t.Fatalf("CMD %s: %v", in.rest, err)
		}
	default:
		t.Fatalf("no rule for %s", in.name)
	}
}

var copyFrom = regexp.MustCompile(`^--from=(\S+) `)

// copy is COPY [--from=stage] source target: of a folder its content, of a file
// or a pattern into target when that ends in / or is a folder.
func (i *image) copy(t testing.TB, rest, context string, named map[string]*image) {
	t.Helper()
	from := &image{root: context, workdir: "/"}
	if m := copyFrom.FindStringSubmatch(rest); m != nil {
		rest = rest[len(m[0]):]
		if from = named[m[1]]; from == nil {
			t.Fatalf("COPY --from=%s: no such stage", m[1])
		}
	}
	words := strings.Fields(rest)
	if len(words) != 2 {
		t.Fatalf("COPY %s: want one source and one target", rest)
	}
	target := i.path(words[1])
	sources, err := filepath.Glob(from.path(words[0]))
	if err != nil || len(sources) == 0 {
		t.Fatalf("COPY %s: no source (%v)", rest, err)
	}
	for _, source := range sources {
		to := target
		info, err := os.Stat(source)
		if err != nil {
			t.Fatal(err)
		}
		if into, err := os.Stat(to); !info.IsDir() && (strings.HasSuffix(words[1], "/") || err == nil && into.IsDir()) {
			to = filepath.Join(to, filepath.Base(source))
		}
		copyTree(t, source, to)
	}
}

// copyTree copies a file, or the content of a folder, with its modes.
func copyTree(t testing.TB, source, target string) {
	t.Helper()
	info, err := os.Stat(source)
	if err != nil {
		t.Fatal(err)
	}
	if !info.IsDir() {
		mkdir(t, filepath.Dir(target))
		data, err := os.ReadFile(source)
		if err == nil {
			err = os.WriteFile(target, data, info.Mode().Perm())
		}
		if err != nil {
			t.Fatal(err)
		}
		return
	}
	mkdir(t, target)
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		copyTree(t, filepath.Join(source, e.Name()), filepath.Join(target, e.Name()))
	}
}

func mkdir(t testing.TB, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// setting is the value of a variable of the image.
func (i *image) setting(name string) string {
	for _, e := range i.env {
		if value, ok := strings.CutPrefix(e, name+"="); ok {
			return value
		}
	}
	return ""
}

var loopbackPort = regexp.MustCompile(`^http://127\.0\.0\.1:(\d+)$`)

// launch runs the image's command with the image's own settings. Only what
// would collide on one machine is replaced: paths of the image by where they
// are, and the handler's port, wherever the image names it, by a free one,
// which is returned (0: the image has no upstream).
func (i *image) launch(t testing.TB, env ...string) (*instance, int) {
	t.Helper()
	var was string
	port := 0
	if m := loopbackPort.FindStringSubmatch(i.setting("upstream_url")); m != nil {
		was, port = m[1], programtest.FreePort(t)
	} else if i.setting("upstream_url") != "" {
		t.Fatalf("upstream_url %s is not on loopback", i.setting("upstream_url"))
	}
	var all []string
	for _, e := range i.env {
		name, value, _ := strings.Cut(e, "=")
		switch {
		case strings.HasPrefix(value, i.workdir+"/"):
			value = filepath.Join(i.root, value)
		case was != "" && value == was:
			value = fmt.Sprint(port)
		case was != "" && name == "upstream_url":
			value = strings.Replace(value, ":"+was, fmt.Sprintf(":%d", port), 1)
		}
		all = append(all, name+"="+value)
	}
	cmd := exec.Command(i.path(filepath.Join("/usr/bin", i.cmd[0])), i.cmd[1:]...)
	cmd.Dir = i.path(".")
	return launchCmd(t, cmd, append(all, env...)...), port
}
