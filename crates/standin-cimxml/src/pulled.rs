//! The pulled operations (DSP0200 5.3.2.24): an enumeration is opened, pulled and closed.

use crate::answer::{Answer, out_text};
use crate::associations::of_filter;
use crate::enumerations::{Asker, Kind, Page, timeout};
use crate::intrinsic::Operation;
use crate::shape::{Form, Shape};
use standin_cim::wql::{self, Query};
use standin_cim::xml::write_class::{ClassOptions, class};
use standin_cim::{CimError, Context, Instance, Keys, Result, StatusCode};
use std::time::Duration;

/// What every Open operation is told.
struct Opening {
    filter: Option<String>,
    timeout: Duration,
    most: u32,
}

/// The longest filter that is read.
const MAX_FILTER: usize = 16 * 1024;

fn invalid(message: &str) -> CimError {
    CimError::new(StatusCode::InvalidParameter, message)
}

impl Operation<'_> {
    /// OperationTimeout, ContinueOnError, MaxObjectCount.
    fn opening(&mut self) -> Result<Opening> {
        let timeout = timeout(self.arguments.number("OperationTimeout")?)?;
        if self.arguments.boolean("ContinueOnError", false)? {
            let message = "an enumeration ends with its first error; leave ContinueOnError out";
            return Err(CimError::new(StatusCode::ContinuationOnErrorNotSupported, message));
        }
        let most = self.arguments.number("MaxObjectCount")?.unwrap_or(0);
        Ok(Opening { filter: None, timeout, most })
    }

    /// The same with FilterQueryLanguage and FilterQuery.
    fn filtered_opening(&mut self) -> Result<Opening> {
        let language = self.arguments.text("FilterQueryLanguage")?.filter(|text| !text.trim().is_empty());
        let filter = self.arguments.text("FilterQuery")?.filter(|text| !text.trim().is_empty());
        match (&language, &filter) {
            (None, None) => {}
            (None, Some(_)) => return Err(invalid("FilterQuery needs FilterQueryLanguage")),
            (Some(language), _) if !language.trim().eq_ignore_ascii_case("DMTF:FQL") => {
                let message =
                    format!("filters in {} cannot be read; write them in DMTF:FQL", shown(language));
                return Err(CimError::new(StatusCode::QueryLanguageNotSupported, message));
            }
            (Some(_), None) => return Err(invalid("FilterQueryLanguage needs FilterQuery")),
            (Some(_), Some(filter)) if filter.len() > MAX_FILTER => {
                return Err(CimError::new(StatusCode::InvalidQuery, "the filter is longer than 16 KiB"));
            }
            (Some(_), Some(_)) => {}
        }
        Ok(Opening { filter, ..self.opening()? })
    }

    /// `whole`: instances; otherwise their paths.
    pub async fn open_enumerate(mut self, whole: bool) -> Result<Answer> {
        let (class, shape) = match whole {
            true => self.enumeration()?,
            false => (self.arguments.needed_class("ClassName")?, Shape::default()),
        };
        let opening = self.filtered_opening()?;
        self.arguments.finish()?;
        if let Some(filter) = &opening.filter {
            let query = self.filter_of(&class, filter)?;
            self.class(&class)?;
            query.check(&self.context()).map_err(|error| CimError::new(error.status(), error.to_string()))?;
        }
        let instances = self.operations().enumerate(self.caller, &self.namespace, &class).await?;
        self.open(instances, whole, &shape, &opening)
    }

    /// `whole`: instances; otherwise their paths.
    pub async fn open_associators(mut self, whole: bool) -> Result<Answer> {
        let walk = self.walk("InstanceName", true, whole)?;
        let opening = self.filtered_opening()?;
        self.arguments.finish()?;
        if walk.source.keys == Keys::None {
            return Err(invalid("InstanceName is to be the name of an instance, not of a class"));
        }
        let found = self
            .operations()
            .associators(self.caller, &walk.source, &walk.filter)
            .await
            .map_err(of_filter)?;
        self.open(found, whole, &walk.shape, &opening)
    }

    /// `whole`: associations; otherwise their paths.
    pub async fn open_references(mut self, whole: bool) -> Result<Answer> {
        let walk = self.walk("InstanceName", false, whole)?;
        let opening = self.filtered_opening()?;
        self.arguments.finish()?;
        if walk.source.keys == Keys::None {
            return Err(invalid("InstanceName is to be the name of an instance, not of a class"));
        }
        let found =
            self.operations().references(self.caller, &walk.source, &walk.filter).await.map_err(of_filter)?;
        self.open(found, whole, &walk.shape, &opening)
    }

    /// Here the query is a whole one, in a language that ExecQuery takes too.
    pub async fn open_query(mut self) -> Result<Answer> {
        let language = self.arguments.needed_text("FilterQueryLanguage")?;
        let query = self.arguments.needed_text("FilterQuery")?;
        let result_class = self.arguments.boolean("ReturnQueryResultClass", false)?;
        let opening = self.opening()?;
        self.arguments.finish()?;
        let found = self.operations().query(self.caller, &self.namespace, &language, &query).await?;
        let mut described = String::new();
        if result_class {
            self.describe(&mut described, &query, found.projection.as_deref())?;
        }
        let elements = self.elements(found.instances, Form::Instance, &Shape::default())?;
        let page = self.server.enumerations.open(
            self.asker(Kind::Instances),
            elements,
            opening.most,
            opening.timeout,
        )?;
        let mut answer = answer(page);
        answer.out.push_str(&described);
        Ok(answer)
    }

    /// The class of what a query gives: the one that it selects from, with the selected properties.
    fn describe(&self, out: &mut String, query: &str, projection: Option<&[String]>) -> Result<()> {
        let query = wql::parse(query).map_err(|error| CimError::new(error.status(), error.to_string()))?;
        out.push_str("<PARAMVALUE NAME=\"QueryResultClass\">");
        let declarations = &self.server.qualifiers;
        let options = ClassOptions { properties: projection, declarations, ..ClassOptions::default() };
        class(out, self.class(query.class())?, &options);
        out.push_str("</PARAMVALUE>");
        Ok(())
    }

    fn open(
        &self,
        mut found: Vec<Instance>,
        whole: bool,
        shape: &Shape,
        opening: &Opening,
    ) -> Result<Answer> {
        if let Some(filter) = &opening.filter {
            self.keep(&mut found, filter)?;
        }
        let (kind, form) =
            if whole { (Kind::WithPath, Form::InstanceWithPath) } else { (Kind::Paths, Form::InstancePath) };
        let elements = self.elements(found, form, shape)?;
        self.server.enumerations.open(self.asker(kind), elements, opening.most, opening.timeout).map(answer)
    }

    fn elements(&self, instances: Vec<Instance>, form: Form, shape: &Shape) -> Result<Vec<Box<str>>> {
        let one = |instance| {
            let mut out = String::with_capacity(512);
            self.write(&mut out, instance, form, shape)?;
            Ok(out.into_boxed_str())
        };
        instances.into_iter().map(one).collect()
    }

    /// Keeps the instances that a filter wants. Instances of several classes may come; a property that one does not
    /// have is not equal to anything.
    fn keep(&self, found: &mut Vec<Instance>, filter: &str) -> Result<()> {
        // Even when there is nothing to keep, a filter that cannot be read is an error.
        let query = self.filter_of("CIM_ManagedElement", filter)?;
        let context = self.context();
        let mut failed = None;
        found.retain(|instance| match query.matches(instance, &context) {
            Ok(wanted) => wanted,
            Err(error) if error.status() == StatusCode::NoSuchProperty => false,
            Err(error) => {
                failed.get_or_insert(error);
                false
            }
        });
        failed.map_or(Ok(()), |error| Err(CimError::new(error.status(), error.to_string())))
    }

    /// A filter (DSP0212) is the condition of a query.
    fn filter_of(&self, class: &str, filter: &str) -> Result<Query> {
        wql::parse(&format!("SELECT * FROM {class} WHERE {filter}")).map_err(|error| {
            CimError::new(
                StatusCode::InvalidQuery,
                format!("the filter {:?} cannot be read: {error}", shown(filter)),
            )
        })
    }

    fn context(&self) -> Context<'_> {
        Context { schema: &self.schema, namespace: &self.namespace, host: &self.server.host }
    }

    pub fn pull(mut self, kind: Kind) -> Result<Answer> {
        let context = self.arguments.needed_text("EnumerationContext")?;
        let most = self.arguments.number("MaxObjectCount")?;
        let most = most.ok_or_else(|| invalid("the parameter MaxObjectCount is missing"))?;
        self.arguments.finish()?;
        self.server.enumerations.pull(self.asker(kind), &context, most).map(answer)
    }

    pub fn close(mut self) -> Result<Answer> {
        let context = self.arguments.needed_text("EnumerationContext")?;
        self.arguments.finish()?;
        // Which kind it is does not matter for closing.
        self.server.enumerations.close(self.asker(Kind::Instances), &context)?;
        Ok(Answer::nothing())
    }

    fn asker(&self, kind: Kind) -> Asker<'_> {
        Asker { user: &self.caller.name, namespace: &self.namespace, kind }
    }
}

fn answer(page: Page) -> Answer {
    let mut out = String::new();
    out_text(&mut out, "EnumerationContext", "string", page.context.as_deref().unwrap_or_default());
    out_text(&mut out, "EndOfSequence", "boolean", if page.context.is_none() { "TRUE" } else { "FALSE" });
    Answer { value: Some(page.elements), out }
}

fn shown(text: &str) -> String {
    text.chars().take(100).collect()
}
