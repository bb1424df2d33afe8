// Package compose reads compose files into the stack that they describe.
//
// compose-go, the reference implementation, reads: it interpolates, merges, extends
// and includes. Three things it does not do are done here. It forgets where things
// stand, so every file is read as a tree beside it, and every error names file, line
// and key. It passes over what it does not know the meaning of, so keys are held
// against a table (keys.go), and one that is not understood is an error; whoever
// wants it passed over says so, and is told what was. And it reads whatever it is
// pointed at, so files are found and measured before it is: regular files of this
// machine, of bounded size, number, depth and expansion (limits.go). Nothing is
// fetched from anywhere.
//
// Files are read as whoever runs the command: a compose file can have its variables,
// and files that it names, sent to the cluster. To deploy a file is to trust it with
// that, as with what it runs.
//
// It calls no cluster. Networks, volumes, secrets and configs that are external keep their
// names; whether they are there is the plan's to say.
package compose

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/compose-spec/compose-go/v2/dotenv"
	"github.com/compose-spec/compose-go/v2/interpolation"
	"github.com/compose-spec/compose-go/v2/loader"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/sirupsen/logrus"

	"github.com/redoubt-cluster/redoubt/cmd/internal/stack"
)

// Options say what to read.
type Options struct {
	// Stack is its name; for Model alone it may be empty, and is that of the files then.
	Stack string
	// Files are merged in their order; "-" is Stdin. None: the one of DefaultFiles
	// that is there.
	Files []string
	Stdin io.Reader
	// EnvFiles have variables; none: .env beside the first file, where it is there.
	EnvFiles []string
	// Profiles whose services are wanted, too; none: those that COMPOSE_PROFILES names.
	Profiles []string
	// Environ are the variables of the process, NAME=value, which come before those
	// of files.
	Environ []string
}

// DefaultFiles are looked for where no file is named.
var DefaultFiles = []string{"compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"}

// Read is what was read.
type Read struct {
	// Project is the merged file.
	Project *types.Project
	// Unsupported is what it has that is not understood, and that Project lacks.
	Unsupported []Problem
	// Warnings are remarks of the reader.
	Warnings []string

	source *source
	stack  string
}

// loading keeps two reads from each other: the loader's remarks go through a logger
// of the whole process.
var loading sync.Mutex

// Load reads files. Errors are of type *Error where a file is wrong.
func Load(ctx context.Context, o Options) (r *Read, err error) {
	loading.Lock()
	defer loading.Unlock()
	l, err := o.prepare()
	if err != nil {
		return nil, err
	}
	remarks := listen()
	defer remarks.end()
	defer func() { // the loader trusts the forms of some things that nobody checked
		if p := recover(); p != nil {
			r, err = nil, failed([]Problem{l.source.at(nil, "the files are of a form that the reader does not know: %v", p)})
		}
	}()
	r, err = l.load(ctx)
	if err != nil {
		var mine *Error
		if errors.As(err, &mine) {
			return nil, mine
		}
		return nil, failed(l.source.located(err))
	}
	r.Warnings = remarks.texts
	return r, nil
}

// load is one reading.
type load struct {
	o       Options
	source  *source
	details types.ConfigDetails
	expand  *expander
}

func (o Options) prepare() (*load, error) {
	files, err := o.files()
	if err != nil {
		return nil, err
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	if files[0] != "-" {
		dir = filepath.Dir(absolute(dir, files[0]))
	}
	env, err := o.environment(dir)
	if err != nil {
		return nil, err
	}
	l := &load{o: o, details: types.ConfigDetails{WorkingDir: dir, Environment: env}, expand: &expander{left: maxExpanded}}
	l.source = &source{expand: func(text string) (string, error) { return l.expand.substitute(text, l.details.LookupEnv) }}
	for _, name := range files {
		content, path, err := o.read(name)
		if err != nil {
			return nil, failed([]Problem{{File: shown(path), Text: "it cannot be read: " + reason(err)}})
		}
		if err := l.source.open(path, dir, content); err != nil {
			return nil, err
		}
		l.details.ConfigFiles = append(l.details.ConfigFiles, types.ConfigFile{Filename: path, Content: content})
	}
	return l, nil
}

func (o Options) files() ([]string, error) {
	if len(o.Files) > 0 {
		return o.Files, nil
	}
	for _, name := range DefaultFiles {
		if _, err := os.Stat(name); err == nil {
			return []string{name}, nil
		}
	}
	return nil, fmt.Errorf("there is no %s here: name a file by -c", strings.Join(DefaultFiles, ", "))
}

// read reads a file that was named: also a pipe, as who names it knows it.
func (o Options) read(name string) (content []byte, path string, err error) {
	if name == "-" {
		content, err = readAll(o.Stdin, maxFile)
		return content, "-", err
	}
	if path, err = filepath.Abs(name); err != nil {
		return nil, name, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, path, err
	}
	defer f.Close()
	content, err = readAll(f, maxFile)
	return content, path, err
}

// environment are the variables that texts may refer to.
func (o Options) environment(dir string) (types.Mapping, error) {
	env := types.Mapping{}
	for _, kv := range o.Environ {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	files := o.EnvFiles
	if len(files) == 0 {
		path := filepath.Join(dir, ".env")
		if fi, err := os.Stat(path); err == nil && fi.Mode().IsRegular() {
			files = []string{path}
		}
	}
	for _, name := range files {
		if _, err := readRegular(name, maxFile); err != nil {
			return nil, failed([]Problem{{File: shown(name), Text: "it cannot be read: " + reason(err)}})
		}
	}
	read, err := dotenv.GetEnvFromFile(env, files)
	if err != nil {
		return nil, failed([]Problem{{File: shown(files[0]), Text: err.Error()}})
	}
	return env.Merge(read), nil
}

func (l *load) options(o *loader.Options) {
	name := l.o.Stack
	if name == "" {
		name = loader.NormalizeProjectName(filepath.Base(l.details.WorkingDir))
	}
	o.SetProjectName(name, l.o.Stack != "")
	o.Profiles = l.profiles()
	o.SkipNormalization = true
	o.SkipResolveEnvironment, o.SkipResolveLabels = true, true
	o.MaxNodeVisits = maxNodes
	o.Interpolate = &interpolation.Options{Substitute: l.expand.substitute, LookupValue: l.details.LookupEnv, TypeCastMapping: o.Interpolate.TypeCastMapping}
	o.ResourceLoaders = []loader.ResourceLoader{nothingRemote{}}
}

func (l *load) profiles() []string {
	if len(l.o.Profiles) > 0 {
		return l.o.Profiles
	}
	return strings.FieldsFunc(l.details.Environment["COMPOSE_PROFILES"], func(r rune) bool { return r == ',' || r == ' ' })
}

// nothingRemote refuses what is not on this machine, if it was not found by the scan.
type nothingRemote struct{}

func (nothingRemote) Accept(path string) bool { return remote(path) }
func (nothingRemote) Dir(path string) string  { return path }
func (nothingRemote) Load(_ context.Context, path string) (string, error) {
	return "", fmt.Errorf("%q is not on this machine: nothing is fetched for a stack", path)
}

func (l *load) load(ctx context.Context) (*Read, error) {
	dict, err := loader.LoadModelWithContext(ctx, l.details, l.options)
	if err != nil {
		return nil, err
	}
	services, _ := dict["services"].(map[string]any)
	if len(services) > maxServices {
		return nil, fmt.Errorf("there are %d services: at most %d are allowed", len(services), maxServices)
	}
	for _, what := range []string{"networks", "volumes", "secrets", "configs", "x-redoubt-policy"} {
		if m, _ := dict[what].(map[string]any); len(m) > maxObjects {
			return nil, fmt.Errorf("there are %d %s: at most %d are allowed", len(m), what, maxObjects)
		}
	}
	l.disable(services)
	c := &checker{source: l.source}
	c.check(dict, understood, nil, nil)
	c.external(dict)
	c.healthchecks(services)
	if len(c.wrong) > 0 {
		return nil, failed(append(c.wrong, c.problems...))
	}
	name := l.o.Stack
	if name == "" {
		name = l.details.Environment["COMPOSE_PROJECT_NAME"]
	}
	dict["name"] = name
	if dict, err = loader.Normalize(dict, l.details.Environment); err != nil {
		return nil, err
	}
	project, err := loader.ModelToProject(dict, loader.ToOptions(&l.details, []func(*loader.Options){l.options}), l.details)
	if err != nil {
		return nil, &Error{sorted(append(c.problems, l.source.located(err)...))}
	}
	project.Name = name
	if err := l.envFiles(project); err != nil {
		return nil, err
	}
	if project, err = project.WithServicesEnvironmentResolved(true); err != nil {
		return nil, err
	}
	return &Read{Project: project.WithoutUnnecessaryResources(), Unsupported: sorted(c.problems), source: l.source, stack: name}, nil
}

// disable takes out services of profiles that are not wanted, with all that is wrong
// about them. Whoever would wait for one of them, and need not, does not.
func (l *load) disable(services map[string]any) {
	wanted, disabled := l.profiles(), map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		s, _ := services[name].(map[string]any)
		of, _ := s["profiles"].([]any)
		if len(of) > 0 && !slices.Contains(wanted, "*") && !slices.ContainsFunc(of, func(p any) bool { text, _ := p.(string); return slices.Contains(wanted, text) }) {
			delete(services, name)
			disabled[name] = true
		}
	}
	for _, v := range services {
		s, _ := v.(map[string]any)
		on, _ := s["depends_on"].(map[string]any)
		maps.DeleteFunc(on, func(name string, v any) bool {
			d, _ := v.(map[string]any)
			return disabled[name] && d["required"] == false
		})
	}
}

// envFiles looks at files of variables before they are read.
func (l *load) envFiles(p *types.Project) error {
	var ps []Problem
	files := 0
	for _, name := range p.ServiceNames() {
		for i, f := range p.Services[name].EnvFiles {
			at := []string{"services", name, "env_file", fmt.Sprint(i)}
			if files++; files > maxEnvFiles {
				return failed([]Problem{l.source.at(at, "there are more than %d files of variables", maxEnvFiles)})
			}
			if _, err := os.Stat(f.Path); errors.Is(err, os.ErrNotExist) && !bool(f.Required) {
				continue
			}
			if _, err := readRegular(f.Path, maxFile); err != nil {
				ps = append(ps, l.source.at(at, "%s cannot be read: %s", shown(f.Path), reason(err)))
			}
		}
	}
	return failed(ps)
}

// remarks are what the loader says of files, each once.
type remarks struct {
	texts []string
	out   io.Writer
	hooks logrus.LevelHooks
}

func listen() *remarks {
	r := &remarks{out: logrus.StandardLogger().Out}
	logrus.SetOutput(io.Discard)
	r.hooks = logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{})
	logrus.AddHook(r)
	return r
}

func (r *remarks) end() {
	logrus.SetOutput(r.out)
	logrus.StandardLogger().ReplaceHooks(r.hooks)
}

// Levels implements logrus.Hook.
func (r *remarks) Levels() []logrus.Level { return []logrus.Level{logrus.WarnLevel} }

// Fire implements logrus.Hook.
func (r *remarks) Fire(e *logrus.Entry) error {
	if !strings.Contains(e.Message, "`version` is obsolete") && !slices.Contains(r.texts, e.Message) && len(r.texts) < maxProblems {
		r.texts = append(r.texts, e.Message)
	}
	return nil
}

// Model is the merged file as YAML, in the form that compose tools read.
func (r *Read) Model() ([]byte, error) { return r.Project.MarshalYAML() }

// Stack is the stack that was read. Errors are of type *Error.
func (r *Read) Stack() (*stack.Stack, error) {
	m := &mapper{read: r, project: r.Project, out: &stack.Stack{Name: r.stack}}
	m.all()
	if len(m.problems) > 0 {
		m.out.Wipe()
		return nil, failed(m.problems)
	}
	return m.out, nil
}
