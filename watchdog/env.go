package watchdog

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/kelseyhightower/envconfig"
)

// namespaceFile is where Kubernetes tells a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// FromEnv reads the settings from environ, which is as os.Environ gives it and
// becomes the environment of the handler, unchanged. program is the mode of the
// program when the environment names none: ModeStreaming, ModeClassic, or
// ModeInproc for a program that serves a handler of its own and then sets
// Config.Handler.
//
// The error joins one *Fault for each thing that is wrong.
//
// FromEnv is for the start of a program: while it runs, the environment of this
// process holds what envconfig is to read. It is as it was when FromEnv
// returns.
func FromEnv(environ []string, program Mode) (Config, error) {
	env := lookup(environ)
	found := readings(env, program)
	mode := program
	if r, ok := found["mode"]; ok && slices.Contains(environmentModes, Mode(r.value)) && program != ModeInproc {
		mode = Mode(r.value)
	}

	v := defaultsFor(mode)
	if err := fill(v, found); err != nil {
		return Config{}, err
	}
	cfg := v.config()
	cfg.Environ = slices.Clone(environ)
	cfg.LockPath = LockPath(environ)
	if !v.DiskPath.given {
		cfg.DiskPath = tempFolder(environ)
	}
	cfg.FunctionName = env["OPENFAAS_NAME"]
	if cfg.JWTAuth {
		cfg.FunctionNamespace = namespace(env, namespaceFile)
	}
	if err := faults(v, &cfg, found, program); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

var environmentModes = []Mode{ModeStreaming, ModeSerializing, ModeHTTP, ModeStatic, ModeClassic}

// lookup maps names to values; of a name that is there twice the last counts,
// as it does for os/exec. Empty is unset.
func lookup(environ []string) map[string]string {
	env := make(map[string]string, len(environ))
	for _, entry := range environ {
		if name, value, ok := strings.Cut(entry, "="); ok {
			env[name] = value
		}
	}
	return env
}

// reading is the text of a setting and the variable it came from.
type reading struct{ variable, value string }

// readings finds the text of each setting that has one, by its first name.
// The spelling WATCHDOG_<NAME> wins over the lower-case one.
func readings(env map[string]string, program Mode) map[string]reading {
	found := make(map[string]reading)
	for i := range settings {
		s := &settings[i]
		name := s.names[0]
		if r, ok := s.pick(env, upper); ok {
			found[name] = r
			continue
		}
		// classic-watchdog knows no mode: in its images that name is the
		// handler's.
		if name == "mode" && program == ModeClassic {
			continue
		}
		if r, ok := s.pick(env, strings.Clone); ok {
			found[name] = r
		}
	}
	return found
}

// pick takes the first spelling that is set, or for a setting of which either
// spelling is enough the first that does not say false.
func (s *setting) pick(env map[string]string, spell func(string) string) (first reading, ok bool) {
	for _, name := range s.names {
		variable := spell(name)
		value := env[variable]
		if value == "" || serviceLink(variable, value) {
			continue
		}
		if yes, err := strconv.ParseBool(value); !s.either || err != nil || yes {
			return reading{variable, value}, true
		}
		if !ok {
			first, ok = reading{variable, value}, true
		}
	}
	return first, ok
}

// serviceLink reports whether a variable is not the user's but what Kubernetes
// tells each pod of the namespace about a Service called watchdog or
// watchdog-metrics.
func serviceLink(variable, value string) bool {
	if variable != upper("port") && variable != upper("metrics_port") {
		return false
	}
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") || strings.HasPrefix(value, "sctp://")
}

// environment is held while the environment of this process is borrowed.
var environment sync.Mutex

// fill has envconfig read the texts of found into v. envconfig reads only the environment of this
// process, so found is put there under the names it asks for, everything else
// under those names is emptied, and then all is put back.
func fill(v *values, found map[string]reading) (err error) {
	environment.Lock()
	defer environment.Unlock()
	for i := range settings {
		name := settings[i].names[0]
		key := upper(name)
		before, was := os.LookupEnv(key)
		r, ok := found[name]
		if !ok && !was {
			continue
		}
		// A value with a zero byte cannot have come from a process's
		// environment and cannot be put there: envconfig does not see it, and
		// faults reports it.
		if err := os.Setenv(key, r.value); err != nil {
			continue
		}
		defer func() {
			// Not Unsetenv and Setenv: that would move it to the end.
			if was {
				err = errors.Join(err, os.Setenv(key, before))
			} else {
				err = errors.Join(err, os.Unsetenv(key))
			}
		}()
	}
	if err := envconfig.Process(prefix, v); err != nil {
		return fmt.Errorf("settings: %w", err)
	}
	return nil
}

// faults joins what is wrong, in the variables' own words: texts that did not
// parse in the table's order, then what does not fit together.
func faults(v *values, cfg *Config, found map[string]reading, program Mode) error {
	var all []error
	told := make(map[string]bool)
	bad := func(name, value, want string) {
		if s := settingOf(name); s != nil {
			if told[s.names[0]] {
				return
			}
			told[s.names[0]] = true
			if r, ok := found[s.names[0]]; ok {
				name, value = r.variable, r.value
			}
		}
		all = append(all, &Fault{Name: name, Value: value, Want: want})
	}

	for i := range settings {
		s := &settings[i]
		switch want := s.field(v).wanted(); {
		case want != "":
			bad(s.names[0], "", want)
		case strings.ContainsRune(found[s.names[0]].value, 0):
			bad(s.names[0], "", "a text without a zero byte")
		}
	}
	if r, ok := found["mode"]; ok {
		switch {
		case program == ModeInproc && Mode(r.value) != ModeInproc:
			bad("mode", "", "inproc or none, because this program serves a handler of its own")
		case program != ModeInproc && Mode(r.value) == ModeInproc:
			bad("mode", "", "streaming, serializing, http, static or classic; inproc is for Go programs that use the package watchdog")
		}
	}
	if told["mode"] {
		cfg.Mode = ModeInproc // which needs nothing: what an unknown mode lacks is not known
	}
	// Nor is what a number was to be that is none.
	if told["max_inflight"] {
		cfg.MaxInflight, cfg.AutoInflight = 1, false
	}
	if told["max_queue"] || told["ready_queue"] {
		cfg.ReadyQueue = 0
	}
	cfg.check(bad)
	return errors.Join(all...)
}

// settingOf finds a setting by either of its names.
func settingOf(name string) *setting {
	for i := range settings {
		if slices.Contains(settings[i].names, name) {
			return &settings[i]
		}
	}
	return nil
}

// namespace is the function's: what the environment says, else what
// Kubernetes wrote into file, else "".
func namespace(env map[string]string, file string) string {
	if ns := env["OPENFAAS_NAMESPACE"]; ns != "" {
		return ns
	}
	ns, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(ns))
}
